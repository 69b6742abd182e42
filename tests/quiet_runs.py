"""Runs that nobody looks at, on Ray or in this process, and what they are made of: importable, to travel by name."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import psutil
import torch

from pipeline import build
from pipeline.config import Recipe
from pipeline.core.flat import sha256
from pipeline.engine import loop
from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.durability.journal import Journal
from pipeline.engine.interfaces import Entry, Executor, Status
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.serial import SerialExecutor
from pipeline.storage import storage_at

LIMITS = Timeouts(wait_s=60.0, copy_s=1e6)  # no copies: standing workers go from run to run
TRACKER = "pipeline.tracking.mlflow_tracker"


class Nowhere:
    """A tracker that keeps nothing: mlflow takes seconds to import, and most runs here are not looked at."""

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        return "nowhere"

    def send(self, entries: Sequence[Entry]) -> None: ...

    def tag(self, tags: Mapping[str, str]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def model(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None: ...

    def end(self, status: Status) -> None: ...


@dataclass(frozen=True)
class BuildQuietCoordinator:
    """The coordinator of a run that nobody looks at: the real one, with a stand-in for the module of its tracker."""

    recipe: str
    folder: str

    def __call__(self) -> Coordinator:
        real = sys.modules.get(TRACKER)
        quiet = ModuleType(TRACKER)
        quiet.MLflowTracker = lambda uri, experiment: Nowhere()  # type: ignore[attr-defined]
        sys.modules[TRACKER] = quiet
        try:
            return build.BuildCoordinator(self.recipe, self.folder, commit="", accept_numerics=False)()
        finally:
            del sys.modules[TRACKER]
            if real is not None:
                sys.modules[TRACKER] = real


class Onlooker:
    """Sees losses go by, and calls ``after`` when a step is done."""

    def __init__(self, after: Any = None) -> None:
        self.after = after
        self.seen: list[tuple[int, float]] = []
        self.notes: list[str] = []

    def start(self, steps: int, done: int) -> None:
        self.done = done

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        self.seen.append((step, loss))
        if self.after is not None:
            self.after(step)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Outcome(NamedTuple):
    """How a run ended: theta's hash and 2-norm, the step it began after, each step's loss, and the journal's.

    Of a step that was done again, both times must have the same loss.
    """

    theta: str
    norm: float
    began_after: int
    losses: list[float]
    journal: list[tuple[str, int, float]]


def run(
    recipe: Recipe, folder: Path, workers: int, worker: Any = None, after: Any = None, timeouts: Timeouts | None = None
) -> Outcome:
    """Train on ``workers`` Ray workers, or in this process for 0, from wherever the run in ``folder`` stands."""
    text = recipe.model_dump_json()
    worker, coordinator = worker or build.BuildWorker(text), BuildQuietCoordinator(text, str(folder))
    executor = on_ray(worker, coordinator, workers, timeouts) if workers else SerialExecutor(worker(), coordinator())
    return train(recipe, folder, executor, after)


def train(recipe: Recipe, folder: Path, executor: Executor, after: Any = None) -> Outcome:
    """As ``run``, on an executor whose coordinator has that folder."""
    onlooker = Onlooker(after)
    try:
        trained = loop.train(executor, build.plan_of(recipe, build.build_components(recipe)), onlooker)
    except BaseException:
        executor.close("FAILED", {})
        raise
    theta = torch.from_numpy(executor.fetch(trained.theta))
    assert executor.close("FINISHED", {}) is None
    journal = Journal(storage_at(str(folder)))
    journal.load()
    entries = [(one.kind, one.step, one.metrics["train/loss"]) for one in journal.since(0) if one.kind == "train"]
    losses = dict(onlooker.seen)
    assert len(losses) == len(set(onlooker.seen)), "a step that was done again had another loss"
    return Outcome(sha256(theta), theta.double().norm().item(), onlooker.done, list(losses.values()), entries)


def durable(folder: Path, step: int) -> None:
    """Wait until a step is on disk: its checkpoint is written while the next step is learned."""
    journal, deadline = folder / "journal.jsonl", time.monotonic() + 60.0
    while not (journal.exists() and f'"kind": "train", "step": {step},' in journal.read_text()):
        assert time.monotonic() < deadline, f"step {step} does not reach the disk"
        time.sleep(0.005)


def processes(kind: str) -> list[int]:
    """The processes of this session's actors of a class."""
    return [one.pid for one in psutil.Process().children(recursive=True) if kind in one.name()]


def on_ray(worker: Any, coordinator: Any, workers: int, timeouts: Timeouts | None = None) -> Executor:
    """An executor on the Ray of this session."""
    from pipeline.runtime.cluster import Workers
    from pipeline.runtime.executor import RayExecutor

    pinned = "://" not in coordinator.folder
    return RayExecutor(
        worker, coordinator, Workers(workers, 0.0), "local", Scheduler(timeouts or LIMITS), pinned=pinned
    )
