"""``python -m tests.bench.serving MODEL``: requests per second and latencies of a model on Ray Serve, on this machine.

It starts ``python -m jobs.serve`` and asks it over loopback: adaptations, predictions, a thousand sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil

START_S = 180.0


class Measured(NamedTuple):
    """What came of many requests."""

    what: str
    requests: int
    seconds: float
    latencies: list[float]
    statuses: dict[int, int]

    def row(self) -> str:
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1e3
        return (
            f"{self.what:<28} {self.requests:>5} requests {self.requests / self.seconds:>7.1f}/s  "
            f"p50 {p50:>7.1f} ms  p99 {p99:>7.1f} ms  {self.statuses}"
        )


@contextmanager
def server(model: str, words: list[str]) -> Iterator[tuple[str, psutil.Process]]:
    """The URL and the process of a server."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "jobs.serve", model, "--backend", "ray", "--port", "0", *words]
            process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            began = time.monotonic()
            while not (found := re.search(r"http://\S+?:\d+", log.read_text())):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    raise SystemExit(log.read_text())
                time.sleep(0.05)
            print(f"ready after {time.monotonic() - began:.1f} s")
            yield found.group(), psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


async def ask(client: httpx.AsyncClient, what: str, path: str, bodies: list[str], at_once: int) -> tuple[Measured, Any]:
    """Post all bodies, so many at a time; what came of them, and the answers."""
    left, answers, latencies, statuses = list(enumerate(bodies)), [None] * len(bodies), [], {}

    async def one_after_the_other() -> None:
        while left:
            number, body = left.pop()
            began = time.perf_counter()
            answer = await client.post(path, content=body, headers={"content-type": "application/json"})
            latencies.append(time.perf_counter() - began)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            answers[number] = answer.json()

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return Measured(what, len(bodies), time.perf_counter() - began, latencies, statuses), answers


def resident(process: psutil.Process, name: str = "") -> float:
    """MB that the server's processes hold, or those alone whose title has this name."""
    every = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in every if name in " ".join(one.cmdline())) / 1e6


async def measure(url: str, process: psutil.Process, arguments: argparse.Namespace) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:
        told = (await client.get("/model")).json()
        print(f"{told['algorithm']}, inputs {told['input_shape']}, {told['parameters']} parameters")
        rng = np.random.default_rng(0)
        rows = rng.random((arguments.ways * 4, *told["input_shape"])).round(4).tolist()
        support = {"support_x": rows[: arguments.ways], "support_y": list(range(arguments.ways))}
        adapt = json.dumps(support)
        await ask(client, "first", "/adapt", [adapt] * 3, 1)
        for at_once in arguments.at_once:
            found, answers = await ask(
                client, f"adapt, {at_once} at once", "/adapt", [adapt] * arguments.adapts, at_once
            )
            print(found.row(), flush=True)
            asked = [
                json.dumps({"session": answers[number % len(answers)]["session"], "query_x": rows[: arguments.ways]})
                for number in range(arguments.predicts)
            ]
            found, _ = await ask(client, f"predict, {at_once} at once", "/predict", asked, at_once)
            print(found.row(), flush=True)
        before = resident(process, "ServeReplica")
        found, answers = await ask(client, "sessions", "/adapt", [adapt] * arguments.sessions, 4)
        print(found.row())
        asked = [json.dumps({"session": one["session"], "query_x": rows[:1]}) for one in answers]
        found, _ = await ask(client, "predict in each session", "/predict", asked, 4)
        print(found.row())
        text = (await client.get("/metrics")).text
        counts = re.findall(r"^(metafleet_(?:sessions|session_bytes|evictions_total)\S*) (\S+)", text, re.M)
        print(*(f"{name} {float(value):.0f}" for name, value in counts), sep=", ")
        print(f"replica {before:.0f} MB before these sessions, {resident(process, 'ServeReplica'):.0f} MB after")
        print(f"all processes {resident(process):.0f} MB")


def main() -> None:
    described = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    described.add_argument("model", help="a run's folder")
    described.add_argument("words", nargs="*", help="further words for jobs.serve, such as sessions=2000")
    described.add_argument("--ways", type=int, default=5)
    described.add_argument("--adapts", type=int, default=100)
    described.add_argument("--predicts", type=int, default=300)
    described.add_argument("--sessions", type=int, default=1000)
    described.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16])
    described.add_argument("--replicas", default="1")
    arguments = described.parse_intermixed_args()
    with server(arguments.model, ["--replicas", arguments.replicas, *arguments.words]) as (url, process):
        asyncio.run(measure(url, process, arguments))


if __name__ == "__main__":
    main()
