"""The prepared GPU check: ``python -m tests.bench.gpu --output DIR`` checks against float64 and measures, in 8 minutes.

Each part is a process of its own with a time limit. It writes ``DIR/PART.json`` as it goes, so what a part has measured
before it fails or is stopped is kept. The process ends with 1 where a part failed. ``--accuracy`` trains instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.bench.gpu import page

LIMITS = {"machine": 40, "exact": 90, "speed": 180, "workers": 160}
"""Seconds of each part, in this order; less than 8 minutes in all."""


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    described.add_argument("--output", type=Path, required=True, metavar="DIR", help="where results are written")
    described.add_argument("--omniglot", type=Path, default=Path("data/omniglot.arrow"), help="the ingested images")
    described.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    described.add_argument("--quick", action="store_true", help="small sizes: that it runs, and no measurement")
    described.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), help="default: all")
    described.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes to every recipe")
    described.add_argument("--accuracy", choices=("maml", "protonet"), help="instead: train a published schedule")
    described.add_argument("--minutes", type=float, default=8.0, help="of --accuracy; a later call goes on from there")
    described.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    return described


def main() -> None:
    arguments = parser().parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        from tests.bench.gpu import parts

        parts.PARTS[arguments.part](arguments)
        return
    if arguments.accuracy:
        from tests.bench.gpu import accuracy

        print(json.dumps(accuracy.train(arguments), indent=1))
        return
    failed = []
    for name in arguments.parts:
        began = time.monotonic()
        reason = run_part(name, arguments)
        print(f"{name}: {reason or 'done'} after {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] if reason else []
    found = {name: read(arguments.output / f"{name}.json") for name in arguments.parts}
    print(page.page(found))
    sys.exit(1 if failed or page.problems(found, quick=arguments.quick) else 0)


def run_part(name: str, arguments: argparse.Namespace) -> str:
    """Run a part in a process; returns why it failed, or nothing. Its log is ``DIR/PART.log``."""
    log = arguments.output / f"{name}.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "tests.bench.gpu", *sys.argv[1:], "--part", name]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            code = process.wait(LIMITS[name])
        except subprocess.TimeoutExpired:
            stop(psutil.Process(process.pid))
            process.wait()
            return f"stopped at its limit of {LIMITS[name]} s"
    said = log.read_text(errors="replace").strip().splitlines()
    return f"failed with {code}: {said[-1] if said else 'it said nothing'}" if code else ""


def stop(process: psutil.Process) -> None:
    """End a process and all that it started, Ray's among them."""
    for one in (*process.children(recursive=True), process):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
