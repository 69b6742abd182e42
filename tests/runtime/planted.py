"""Workers that break: importable, so that they travel to Ray's processes by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.algorithms.reptile import Reptile
from pipeline.build import BuildWorker
from pipeline.core.flat import Layout
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Ticket, init_rng
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Batch, Context, MetaParams, Params, Score, Task
from pipeline.core.world import WorldStep
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.tasks import environments
from pipeline.tasks.environments import Environments
from pipeline.tasks.sinusoid import Sinusoid

SHAPE = TaskShape(shots=5, queries=5)
WIDE = (300, 300)
"""Hidden layers so wide that theta lies in shared memory: Ray copies what is smaller than 100 KB."""
SOURCE_FAILS, ALGORITHM_FAILS = 11, 12
"""Steps at which the source or the algorithm raises."""


class Scribbler(Reptile):
    """Writes to the tensors it was given, and raises when it is told to."""

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        if context.step == ALGORITHM_FAILS:
            raise ValueError("the inner loop\nhas lost its way")
        for leaf in theta["model"].values():
            leaf.add_(1.0)
        return super().learn(theta, task, context)


class FailingSource(Sinusoid):
    """Raises when it is told to."""

    def sample(self, ticket: Ticket) -> Task[Batch]:
        if ticket.step == SOURCE_FAILS:
            raise KeyError("no such wave")
        return super().sample(ticket)


class Hog:
    """An actor of somebody else's that takes the cluster's CPUs."""

    def here(self) -> bool:
        return True


class Careless(Worker):
    """Computes on the memory it was handed, as a worker would that forgot to copy."""

    def _theta(self, theta: np.ndarray) -> MetaParams:
        return self.layout.unpack(torch.from_numpy(theta))


def parts() -> tuple[Scribbler, Layout, Tensor]:
    """The algorithm, its layout and a theta that is large enough to be shared."""
    model = NormalisedNet(MLP(MLP.Config(hidden=WIDE), (1,), 1, normalised=False), "none", (1,))
    algorithm = Scribbler(Reptile.Config(inner_steps=1), model, LOSSES["mean_squared_error"].function)
    first = algorithm.init(init_rng(0))
    layout = Layout.of(first, torch.float32)
    return algorithm, layout, layout.pack(first)


@dataclass(frozen=True)
class BuildPlanted:
    """A worker with these faults. The loop, not the vectorised path: there a write in place is refused by torch."""

    kind: type[Any] = Worker

    def __call__(self) -> Worker:
        algorithm, layout, _ = parts()
        source = FailingSource(Sinusoid.Config(), TaskShapes(SHAPE, SHAPE))
        return self.kind(algorithm, source, layout, Numerics(device="cpu", vectorise=False), 2)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hung() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def out_of_memory() -> None:
    raise MemoryError("no room for 8 GB")


class DeadlySource:
    """A source that does harm to its process in the middle of a chunk, once where there is a marker to leave."""

    def __init__(self, source: Any, ticket: Ticket, marker: Path | None, harm: Callable[[], None]) -> None:
        self.source, self.ticket, self.marker, self.harm = source, ticket, marker, harm

    def sample(self, ticket: Ticket) -> Task[Any]:
        if ticket == self.ticket and not (self.marker and self.marker.exists()):
            if self.marker:
                self.marker.touch()
            self.harm()
        return self.source.sample(ticket)


@dataclass(frozen=True)
class BuildStuckWorker:
    """A worker whose first process hangs before it is up."""

    recipe: str
    marker: str

    def __call__(self) -> Worker:
        if not Path(self.marker).exists():
            Path(self.marker).touch()
            hung()
        return BuildWorker(self.recipe)()


@dataclass(frozen=True)
class BuildUnlikeWorkers:
    """Workers of a recipe on machines of two kinds: the first process to leave the marker is of the one, others not."""

    recipe: str
    marker: str

    def __call__(self) -> Worker:
        worker = BuildWorker(self.recipe)()
        try:
            Path(self.marker).touch(exist_ok=False)
        except FileExistsError:
            worker.fingerprint |= {"isa": "of another kind"}
        return worker


@dataclass(frozen=True)
class BuildDeadlyWorker:
    """A worker of the recipe whose source is deadly at one ticket: once with a marker, else each time."""

    recipe: str
    ticket: Ticket
    marker: str | None
    harm: Callable[[], None] = killed

    def __call__(self) -> Worker:
        worker = BuildWorker(self.recipe)()
        marker = Path(self.marker) if self.marker else None
        worker.drawing.source = DeadlySource(worker.drawing.source, self.ticket, marker, self.harm)
        return worker


class Deadly(Environments):
    """Environments that end their process at the third step of an episode, once."""

    marker: Path
    steps = 0

    def step(self, state: Params, action: Tensor, fact: str = "") -> tuple[WorldStep, Tensor]:
        self.steps += 1
        if self.steps == 3 and not self.marker.exists():
            self.marker.touch()
            killed()
        return super().step(state, action, fact)


@dataclass(frozen=True)
class BuildFallingWorker:
    """A worker of the recipe, whose first process to act dies in the middle of an episode."""

    recipe: str
    marker: str

    def __call__(self) -> Worker:
        Deadly.marker = Path(self.marker)
        environments.Environments = Deadly  # type: ignore[misc]
        return BuildWorker(self.recipe)()


@dataclass(frozen=True)
class BuildSeer:
    """A worker that says which GPUs it sees, where others put a checksum."""

    def __call__(self) -> Seer:
        return Seer()


class Seer:
    fingerprint: ClassVar[dict[str, str]] = {}

    def score_block(self, theta: Any, block: Any) -> tuple[SimpleNamespace]:
        return (SimpleNamespace(digest=os.environ["CUDA_VISIBLE_DEVICES"]),)
