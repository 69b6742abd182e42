"""A cluster in virtual time: workers that are slow, die, come back and answer late, all drawn from one seed.

The real scheduler, workers and coordinator run against it; nothing sleeps. ``Recorder`` is its tracker.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.interfaces import Applied, Block, DataSet, Entry, Missing, Status, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Leaving, Lost
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import OnPoison, Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.serial import SerialExecutor
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker

LIMITS = Timeouts(wait_s=60.0, first_lease_s=200.0, lease_s=10.0)
GIVEN_UP_S = 1e5

Compute = Callable[[Work, Any, Block], Any]


@dataclass(frozen=True)
class Chaos:
    """Chances per lease. A chunk is killed ``losses`` times at most, but ``poison`` tasks kill whoever computes them.

    ``hang``: no answer ever; ``slow``: an answer a hundred times later; ``wrong``: an answer of another digest.
    """

    loss: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    missing: float = 0.0
    hang: float = 0.0
    slow: float = 0.0
    wrong: float = 0.0
    leave: float = 0.0
    poison: frozenset[str] = frozenset()
    losses: int = 2
    replaced: bool = True
    joined: bool = True


CALM = Chaos()
LOSSES = Chaos(loss=0.25, missing=0.1)
STRAYS = Chaos(loss=0.25, late=0.5, twice=0.2, missing=0.1)
HANGS = Chaos(hang=0.1, slow=0.1, missing=0.1)
EVERYTHING = Chaos(loss=0.15, late=0.3, twice=0.1, missing=0.1, hang=0.05, slow=0.1, leave=0.1)


class VirtualClock:
    """Seconds that pass when the transport has nothing to do before them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


class Lease(NamedTuple):
    worker: int
    number: int
    block: Block
    at: float


class Due(NamedTuple):
    """An event on its way. A stray one tells of a lease that has ended already."""

    at: float
    number: int
    event: Event
    stray: bool


class VirtualTransport:
    """Delivers events one at a time in the order of virtual time, and refuses what no real worker could take.

    Worker ``n`` is on machine ``n % machines``. A chunk takes a second on average.
    """

    def __init__(self, workers: int, seed: int, compute: Compute, chaos: Chaos = CALM, machines: int = 3) -> None:
        self.stop = Stop()
        self.clock, self.compute, self.chaos, self.machines = VirtualClock(), compute, chaos, machines
        self.random = random.Random(seed)
        self.leases: list[Lease] = []
        self.idle: set[int] = set()
        self.alive: set[int] = set()
        self.replaced: list[int] = []
        self.killed: dict[tuple[int, int], int] = {}
        self._numbers = itertools.count()
        self._newcomers = itertools.count(workers)
        self._due: list[Due] = []
        if chaos.joined:
            for worker in range(workers):
                self.join(worker)

    def join(self, worker: int, after: float = 0.0) -> None:
        """A worker that will be there in a while."""
        self._later(Joined(worker, f"machine-{worker % self.machines}"), self.clock.seconds + after)

    def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
        assert worker in self.idle, f"worker {worker} is lost or busy and was assigned chunk {block.number}"
        self.idle.remove(worker)
        self.leases.append(Lease(worker, lease, block, self.clock.seconds))
        chaos, now = self.chaos, self.clock.seconds
        if chaos.poison & {ticket.id for ticket in block.tickets}:
            self._later(Lost(worker, "it was poisoned"), now)
            return
        digest = (7 if self.random.random() >= chaos.wrong else 8,)
        done = Done(worker, lease, self.compute(work, theta, block), digest)
        killed = self.killed.get((block.step, block.number), 0)
        if self.random.random() < chaos.loss and killed < chaos.losses:
            self.killed[block.step, block.number] = killed + 1
            end = self._later(Lost(worker, "it was killed"), now)
            if self.random.random() < chaos.late:  # cut off, not dead: its answer comes after all
                self._later(done, end, stray=True)
            return
        if self.random.random() < chaos.leave:
            self._later(Leaving(worker), now, stray=True)
        if self.random.random() < chaos.hang:
            return
        more = sum(self.random.expovariate(1.0) for _ in block.chunks[1:])
        end = self._later(done, now + more + (100.0 if self.random.random() < chaos.slow else 0.0))
        if self.random.random() < chaos.twice:
            self._later(done, end, stray=True)

    def replace(self, worker: int) -> None:
        assert worker in self.alive, f"worker {worker} was not there and was replaced"
        self.alive.discard(worker)
        self.idle.discard(worker)
        self.replaced.append(worker)
        if self.chaos.replaced:
            self.join(next(self._newcomers))

    def poll(self, seconds: float) -> Sequence[Event]:
        if not self._due or self._due[0].at > self.clock.seconds + seconds:
            self.clock.seconds += seconds
            assert self.clock.seconds < GIVEN_UP_S, "the round hangs: nothing is under way, and it is not over"
            return []
        due = heapq.heappop(self._due)
        self.clock.seconds = max(self.clock.seconds, due.at)
        match due.event:
            case Joined(worker):
                self.alive.add(worker)
                self.idle.add(worker)
            case Done(worker) if worker in self.alive and not due.stray:
                self.idle.add(worker)
            case Lost(worker) | Leaving(worker) if worker not in self.alive:
                return []
        return [due.event]

    def close(self) -> None:
        self._due.clear()

    def _later(self, event: Event, after: float, *, stray: bool = False) -> float:
        at = after + self.random.expovariate(1.0)
        heapq.heappush(self._due, Due(at, next(self._numbers), event, stray))
        return at


def virtual_pool(transport: VirtualTransport, workers: int, on_poison: OnPoison = "abort") -> WorkerPool:
    """A pool on virtual workers."""
    return WorkerPool(transport, transport.clock, Scheduler(LIMITS, on_poison), workers=workers)


class VirtualExecutor(SerialExecutor):
    """A run on virtual workers. Contributions may go missing on their way to the coordinator."""

    def __init__(self, worker: Worker, coordinator: Coordinator, workers: int, seed: int, chaos: Chaos = CALM) -> None:
        def compute(work: Work, theta: Any, block: Block) -> Any:
            return worker.learn_block(theta, block) if work == "learn" else worker.score_block(theta, block)

        transport = VirtualTransport(workers, seed, compute, chaos)
        WorkerPool.__init__(self, transport, transport.clock, Scheduler(LIMITS), workers=workers)
        self.coordinator, self.numerics = coordinator, worker.fingerprint
        self.random, self.chaos = transport.random, chaos

    def apply(
        self, step: int, handles: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        gone = tuple(slot for slot in sorted(handles) if self.random.random() < self.chaos.missing)
        return Missing(gone) if gone else super().apply(step, handles, metrics, skipped)


class Recorder:
    """A tracker in memory. As MLflow does, it stores the same value at the same step and time once."""

    def __init__(self) -> None:
        self.name = ""
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.points: dict[tuple[str, int, int], float] = {}
        self.artifacts: list[str] = []
        self.models: list[dict[str, bytes]] = []
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

    def use(self, data: DataSet) -> None:
        self.data = data

    def describe(self, text: str) -> None:
        self.description = text

    def artifact(self, path: Path, folder: str = "") -> None:
        assert path.is_file()
        self.artifacts.append(f"{folder}/{path.name}" if folder else path.name)

    def model(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        self.models.append(dict(files))

    def end(self, status: Status) -> None:
        self.status = status

    def curve(self, key: str) -> list[tuple[int, float]]:
        return sorted((step, value) for (name, step, _), value in self.points.items() if name == key)
