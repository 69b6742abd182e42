"""A cluster in virtual time: workers that are slow, die, come back and answer late, all drawn from one seed.

The real dealer, workers and keeper run against it; nothing sleeps. ``Recorder`` is the tracker that goes with it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engine.dealer import Crew, Done, Event, Joined, Lost
from pipeline.engine.keeper import Keeper
from pipeline.engine.protocols import Applied, Chunk, Entry, Missing, Status, Work
from pipeline.engine.serial import SerialExecutor
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker

PATIENCE_S = 60.0
GIVEN_UP_S = 1e5

Compute = Callable[[Work, Any, Chunk], Any]


@dataclass(frozen=True)
class Chaos:
    """Chances per order, but ``deadly`` chunks kill whoever computes them, ``kills`` times at most."""

    loss: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    missing: float = 0.0
    deadly: frozenset[int] = frozenset()
    kills: int = 2
    replaced: bool = True
    joined: bool = True


CALM = Chaos()
LOSSES = Chaos(loss=0.25, missing=0.1)
STRAYS = Chaos(loss=0.25, late=0.5, twice=0.2, missing=0.1)


class VirtualClock:
    """Seconds that pass when the transport has nothing to do before them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


class Order(NamedTuple):
    worker: int
    round: int
    chunk: Chunk


class Due(NamedTuple):
    """An event on its way. A stray one tells of an order that is settled already."""

    at: float
    number: int
    event: Event
    stray: bool


class VirtualTransport:
    """Delivers events one at a time in the order of virtual time, and refuses orders that no real worker could take.

    A lost worker's replacement has a number of its own: an answer that comes late is never mistaken for one of its.
    """

    def __init__(self, workers: int, seed: int, compute: Compute, chaos: Chaos = CALM) -> None:
        self.stop = Stop()
        self.clock, self.compute, self.chaos = VirtualClock(), compute, chaos
        self.random = random.Random(seed)
        self.orders: list[Order] = []
        self.idle: set[int] = set()
        self.lost: set[int] = set()
        self.killed: dict[tuple[int, int], int] = {}
        self._numbers = itertools.count()
        self._newcomers = itertools.count(workers)
        self._due: list[Due] = []
        if chaos.joined:
            for worker in range(workers):
                self._later(Joined(worker), self.clock.seconds)

    def send(self, worker: int, round: int, work: Work, theta: Any, chunk: Chunk) -> None:
        assert worker in self.idle, f"worker {worker} is lost or busy and was dealt chunk {chunk.number}"
        self.idle.remove(worker)
        self.orders.append(Order(worker, round, chunk))
        done = Done(worker, round, chunk.number, self.compute(work, theta, chunk))
        killed = self.killed.get((round, chunk.number), 0)
        deadly = chunk.number in self.chaos.deadly or self.random.random() < self.chaos.loss
        if deadly and killed < self.chaos.kills:
            self.killed[round, chunk.number] = killed + 1
            end = self._later(Lost(worker, "it was killed"), self.clock.seconds)
            if self.random.random() < self.chaos.late:  # cut off, not dead: its answer comes after all
                self._later(done, end, stray=True)
            return
        end = self._later(done, self.clock.seconds)
        if self.random.random() < self.chaos.twice:
            self._later(done, end, stray=True)

    def replace(self, worker: int) -> None:
        assert worker in self.lost, f"worker {worker} was not lost and was replaced"
        self.lost.remove(worker)
        if self.chaos.replaced:
            self._later(Joined(next(self._newcomers)), self.clock.seconds)

    def poll(self) -> Sequence[Event]:
        if not self._due:
            self.clock.seconds += 1.0
            assert self.clock.seconds < GIVEN_UP_S, "the round hangs: nothing is under way, and it is not over"
            return []
        due = heapq.heappop(self._due)
        self.clock.seconds = due.at
        match due.event:
            case Lost(worker):
                self.lost.add(worker)
            case Joined(worker) | Done(worker) if not due.stray:
                self.idle.add(worker)
        return [due.event]

    def close(self) -> None:
        self._due.clear()

    def _later(self, event: Event, after: float, *, stray: bool = False) -> float:
        at = after + self.random.expovariate(1.0)
        heapq.heappush(self._due, Due(at, next(self._numbers), event, stray))
        return at


class VirtualExecutor(SerialExecutor):
    """A run on virtual workers. Contributions may go missing on their way to the keeper."""

    def __init__(self, worker: Worker, keeper: Keeper, workers: int, seed: int, chaos: Chaos = CALM) -> None:
        def compute(work: Work, theta: Any, chunk: Chunk) -> Any:
            return worker.learn(theta, chunk) if work == "learn" else worker.score(theta, chunk)

        transport = VirtualTransport(workers, seed, compute, chaos)
        Crew.__init__(self, transport, transport.clock, workers=workers, patience=PATIENCE_S)
        self.keeper, self.numerics = keeper, worker.fingerprint
        self.random, self.chaos = transport.random, chaos

    def apply(
        self, step: int, handles: Mapping[int, Any], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        gone = tuple(chunk for chunk in sorted(handles) if self.random.random() < self.chaos.missing)
        return Missing(gone) if gone else super().apply(step, handles, facts, skipped)


class Recorder:
    """A tracker in memory. As MLflow does, it stores the same value at the same step and time once."""

    def __init__(self) -> None:
        self.name = ""
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.points: dict[tuple[str, int, int], float] = {}
        self.artifacts: list[str] = []
        self.status: Status | None = None
        self.starts: list[str | None] = []

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        self.starts.append(run)
        self.name, self.params, self.status = name, dict(params), None
        self.tags |= tags
        return run or "run-1"

    def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            for key, value in entry.metrics.items():
                stored = self.points.setdefault((key, entry.step, entry.timestamp), value)
                assert stored == value, f"{key} at step {entry.step} was sent as {stored} and as {value}"

    def tag(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags

    def artifact(self, path: Path, folder: str = "") -> None:
        assert path.is_file()
        self.artifacts.append(f"{folder}/{path.name}" if folder else path.name)

    def end(self, status: Status) -> None:
        self.status = status

    def curve(self, key: str) -> list[tuple[int, float]]:
        return sorted((step, value) for (name, step, _), value in self.points.items() if name == key)
