"""Coordinators that are measured: the real one with a stopwatch, and one that is safe only now and then.

Importable, to travel by name to the parameter actor.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline import build
from pipeline.core.types import Contribution
from pipeline.engine.durability.coordinator import Coordinator, Durability
from pipeline.engine.durability.journal import Journal
from pipeline.engine.interfaces import Entry, Status
from pipeline.storage.interface import Storage
from tests.quiet_runs import BuildQuietCoordinator

T = TypeVar("T")
JOURNALING = ("entry", "absorb", "pending", "sync")
"""What ``Coordinator.commit`` calls of a journal."""


class Spent(NamedTuple):
    """Seconds of one outer step in the coordinator.

    ``journal`` is wall time of the coordinator's own thread. It includes whatever that thread waits for: the disk, the
    publisher's lock or the interpreter's. Of the writing of the step before it includes what the coordinator still
    waited for and was the journal's, at worst. ``stolen`` is CPU time of the publisher's thread meanwhile: at worst,
    the coordinator waited for all of it. ``published`` is CPU time of that thread since the step before. Writing the
    entries that a checkpoint carries is not included: it belongs to the checkpoint.
    """

    step: int
    commit: float
    journal: float
    stolen: float
    published: float


@dataclass(frozen=True)
class BuildTimedCoordinator:
    """The coordinator of a real run; when it is closed, what it ``Spent`` lies at ``notes``, one list a line."""

    recipe: str
    folder: str
    notes: str

    def __call__(self) -> TimedCoordinator:
        real = build.BuildCoordinator(self.recipe, self.folder, commit="", accept_numerics=False)()
        return TimedCoordinator(real, Path(self.notes))


class TimedCoordinator:
    """A coordinator with a stopwatch; in all else it is the coordinator."""

    def __init__(self, coordinator: Coordinator, notes: Path) -> None:
        self.coordinator, self.notes = coordinator, notes
        self.spent: list[Spent] = []
        self._thread, self._publisher = 0, 0
        self._journal = self._behind = self._published = 0.0
        for name in JOURNALING:
            setattr(coordinator.journal, name, self._timed(getattr(coordinator.journal, name)))
        self._settle = coordinator.flush
        coordinator.flush = self._settled  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coordinator, name)

    def commit(
        self, step: int, contributions: Sequence[Contribution], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> dict[str, float]:
        self._thread, self._journal = threading.get_ident(), 0.0
        before, start = self._cpu(), time.perf_counter()
        seconds = self.coordinator.commit(step, contributions, facts, skipped)
        spent, after = time.perf_counter() - start, self._cpu()
        self.spent.append(Spent(step, spent, self._journal, after - before, after - self._published))
        self._thread, self._published = 0, after
        return seconds

    def close(self, status: Status, summary: Mapping[str, Any]) -> str | None:
        problem = self.coordinator.close(status, summary)
        self.notes.write_text("".join(f"{json.dumps(one)}\n" for one in self.spent))
        return problem

    def _settled(self) -> None:
        start = time.perf_counter()
        try:
            self._settle()
        finally:
            self._journal += min(time.perf_counter() - start, self._behind)
            self._behind = 0.0

    def _timed(self, call: Callable[..., T]) -> Callable[..., T]:
        def timed(*arguments: Any) -> T:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                spent = time.perf_counter() - start
                if threading.get_ident() == self._thread:
                    self._journal += spent
                elif threading.current_thread().name.startswith("checkpoint"):
                    self._behind += spent

        return timed

    def _cpu(self) -> float:
        """CPU seconds of the publisher's thread so far."""
        if not self._publisher:
            self._publisher = next(one.ident or 0 for one in threading.enumerate() if one.name == "publisher")
        return time.clock_gettime(time.pthread_getcpuclockid(self._publisher))


def read_spent(notes: Path) -> list[Spent]:
    return [Spent(*json.loads(line)) for line in notes.read_text().splitlines()]


@dataclass(frozen=True)
class Turns:
    """Stretches of ``length`` steps, by turns without safety and with it."""

    length: int

    def number(self, step: int) -> int:
        """The stretch that a step, counted from 1, is in."""
        return (step - 1) // self.length

    def safe(self, step: int) -> bool:
        return self.number(step) % 2 == 1


@dataclass(frozen=True, kw_only=True)
class SafeByTurns(Durability):
    """A checkpoint after every step of the safe stretches, and none in the others."""

    turns: Turns

    def due(self, step: int, since: float) -> bool:
        return self.turns.safe(step)


class JournalByTurns(Journal):
    """Keeps the steps of the safe stretches alone."""

    def __init__(self, storage: Storage, turns: Turns) -> None:
        super().__init__(storage)
        self.turns = turns

    def absorb(self, entries: Iterable[Entry]) -> None:
        super().absorb(entry for entry in entries if self.turns.safe(entry.step))


@dataclass(frozen=True)
class BuildCoordinatorByTurns:
    """A coordinator without a tracker, as safe as the real one in every second stretch of steps."""

    recipe: str
    folder: str
    turns: Turns

    def __call__(self) -> Coordinator:
        coordinator = BuildQuietCoordinator(self.recipe, self.folder)()
        coordinator.durability = SafeByTurns(
            1, coordinator.durability.last, coordinator.durability.keep, turns=self.turns
        )
        coordinator.journal = coordinator.publisher.journal = JournalByTurns(coordinator.storage, self.turns)
        return coordinator
