"""Ways to train one recipe against each other: processes that take steps by turns, and the ratios of their speeds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.bench.contestants import Spec
from tests.bench.ratio import ratio
from tests.bench.scenarios import LIBRARIES, SCENARIOS

WARM_UP = 8
"""Steps before the first that counts, or as many as fit into ``WARM_UP_S``, and at least ``SETTLED``."""
WARM_UP_S = 4.0
SETTLED = 3
"""A worker prepares its program at its second call."""


class Pace(NamedTuple):
    """How long one scenario takes: so many rounds as fit into ``seconds``, between the two bounds."""

    seconds: float = 50.0
    turn_s: float = 0.7
    """Of one contestant, where a step takes no longer."""
    at_least: int = 5
    at_most: int = 20


QUICK = Pace(0.0, 0.02, 2, 2)


class Lost(Exception):
    """A contestant's process ended by itself."""


class Contestant:
    """A process of ``tests.bench.contestants``."""

    def __init__(self, spec: Spec, python: str, log: Path) -> None:
        self.spec, self.log = spec, log
        self.rates: list[float] = []
        self.cpu: list[float] = []
        self.turn, self.turn_s, self.at_start = 1, 0.0, dict[str, float]()
        command = [python, "-m", "tests.bench.contestants", json.dumps(spec._asdict())]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise Lost(f"{self.name} ended with {self.process.returncode}: {said[-1] if said else 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, words: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        return self.answer()

    @property
    def name(self) -> str:
        return f"ray_{self.spec.workers}" if self.spec.way == "ray" else self.spec.way

    def wait(self) -> None:
        """Until it is ready."""
        self.at_start = self.answer()["memory_mb"]

    def warm_up(self, turn_s: float) -> None:
        """Take the first steps, and fix how many a turn has."""
        taken, steps, began = self.ask(1), 1, time.monotonic()
        while steps < SETTLED or (steps < WARM_UP and time.monotonic() - began < WARM_UP_S):
            taken, steps = self.ask(1), steps + 1
        self.turn = max(1, round(turn_s / taken["seconds"]))
        self.turn_s = self.turn * taken["seconds"]

    def take_turn(self, tasks: int) -> None:
        taken = self.ask(self.turn)
        self.rates.append(tasks * taken["steps"] / taken["seconds"])
        self.cpu.append(taken["cpu_s"] / (tasks * taken["steps"]))

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def compare(
    scenario: str,
    images: Path,
    folder: Path,
    pace: Pace,
    *,
    device: str = "cpu",
    ways: Sequence[str] = ("hand", "worker", "ray_1", "ray_2", *LIBRARIES),
    python: str = sys.executable,
    changes: tuple[str, ...] = (),
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """One scenario: the speed, memory and CPU time of each way, its ratio to the hand loop, and the gradients' errors.

    Ways that cannot be measured are named under ``missing`` with the reason.
    """
    began, one = time.monotonic(), SCENARIOS[scenario]
    base = Spec("facts", scenario, str(images), str(folder), device, changes=changes)
    tasks = base.recipe().tasks_per_step
    note(f"{scenario}: the hand loop's settings, and errors of gradients")
    trial = _facts(base, folder)
    errors = trial.pop("errors")
    chosen = base._replace(setting=tuple(trial["setting"]))
    specs = [
        chosen._replace(way="ray", workers=int(way[4:])) if way.startswith("ray_") else chosen._replace(way=way)
        for way in ways
        if one.libraries or way not in LIBRARIES
    ]
    note(f"{scenario}: {len(specs)} ways by turns")
    with _started(specs, python, folder) as (contestants, missing):
        _by_turns(contestants, missing, tasks, pace)
        found = {each.name: _speeds(each, contestants, trial["gflop_per_task"]) for each in contestants}
    return {
        "title": one.title,
        "due": one.due,
        "tasks_per_step": tasks,
        "trial": trial,
        "ways": found,
        "missing": missing,
        "two_workers": _ratio(contestants, "ray_1", "ray_2"),
        "errors": errors,
        "seconds": time.monotonic() - began,
    }


def _facts(spec: Spec, folder: Path) -> dict[str, Any]:
    one = Contestant(spec, sys.executable, folder / f"{spec.way}.log")
    try:
        one.wait()
        return one.ask("facts")
    finally:
        one.end()


@contextmanager
def _started(specs: Sequence[Spec], python: str, folder: Path) -> Iterator[tuple[list[Contestant], dict[str, str]]]:
    """Those that are ready, and why others are not."""
    with ExitStack() as stack:
        started, ready, missing = [], list[Contestant](), dict[str, str]()
        for number, spec in enumerate(specs):
            interpreter = python if spec.way in LIBRARIES else sys.executable
            started.append(Contestant(spec, interpreter, folder / f"{spec.scenario}_{number}.log"))
            stack.callback(started[-1].end)
        for each in started:
            with _dropped(each, ready, missing):
                ready.append(each)
                each.wait()
        yield ready, missing


@contextmanager
def _dropped(one: Contestant, those: list[Contestant], missing: dict[str, str]) -> Iterator[None]:
    """A contestant that is lost takes no further part."""
    try:
        yield
    except Lost as lost:
        missing[one.name] = str(lost)
        those.remove(one)


def _by_turns(contestants: list[Contestant], missing: dict[str, str], tasks: int, pace: Pace) -> None:
    for each in list(contestants):
        with _dropped(each, contestants, missing):
            each.warm_up(pace.turn_s)
    in_a_round = sum(each.turn_s for each in contestants)
    rounds = min(pace.at_most, max(pace.at_least, int(pace.seconds / in_a_round)))
    for number in range(rounds):
        # Each round begins with another one: whoever comes first in all of them would have other neighbours.
        first = number % len(contestants)
        for each in (*contestants[first:], *contestants[:first]):
            with _dropped(each, contestants, missing):
                each.take_turn(tasks)


def _speeds(one: Contestant, contestants: list[Contestant], gflop: float) -> dict[str, Any]:
    return {
        "tasks_per_s": float(np.median(one.rates)),
        "best": max(one.rates),
        "cpu_ms_per_task": 1e3 * float(np.median(one.cpu)),
        "gflop_per_s": gflop * float(np.median(one.rates)),
        "ratio": _ratio(contestants, "hand", one.name),
        "rates": one.rates,
        "memory_at_start_mb": one.at_start,
        **one.ask("facts"),
    }


def _ratio(contestants: Sequence[Contestant], old: str, new: str) -> dict[str, float] | None:
    """Of the medians over turns, with the 95% interval over pairs of turns; None where one of both is missing."""
    rates = {one.name: [np.array([rate]) for rate in one.rates] for one in contestants}
    if old not in rates or new not in rates:
        return None
    found = ratio(rates[old], rates[new], paired=True)
    return {"value": found.value, "low": found.low, "high": found.high}
