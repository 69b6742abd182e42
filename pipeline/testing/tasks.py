"""Small tasks of every kind that need no file."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes, TaskSource
from pipeline.core.types import Batch, Kind, Stream, Task
from pipeline.tasks.quadratics import Quadratics
from pipeline.tasks.sinusoid import Sinusoid


class NoisyPictures:
    """Pictures 1×16×16 of noise around a pattern of their class; the patterns are drawn with each task."""

    Config: ClassVar[type[Any]] = type(None)
    splits: tuple[Split, ...] = ("train", "val", "test")
    fingerprint = "noisy pictures"

    def __init__(self, kind: Kind, shapes: TaskShapes) -> None:
        self._kind, self._shapes = kind, shapes

    def spec(self) -> Spec:
        return Spec(self._kind, (1, 16, 16), self._shapes.train.ways)

    def sample(self, ticket: Ticket) -> Task[Any]:
        rng, shape = ticket.rng("task"), self._shapes.of(ticket)
        patterns = rng.normal(size=(shape.ways, 1, 16, 16))

        def examples(each: int) -> Any:
            y = rng.permutation(shape.ways * each) % shape.ways
            x = torch.from_numpy(patterns[y] + 0.5 * rng.normal(size=(len(y), 1, 16, 16)))
            return (Stream if self._kind == "sequence" else Batch)(x.float(), torch.from_numpy(y))

        return Task(ticket.id, examples(shape.shots), examples(shape.queries), shape.ways)


def tasks_of(kind: Kind) -> TaskSource[Any]:
    """The small tasks of a kind; of evaluation they have another shape than of training."""
    if kind == "regression":
        return Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)))
    if kind == "optimisation":
        return Quadratics(Quadratics.Config(), TaskShapes(TaskShape(1, 6, 6), TaskShape(1, 5, 5)))
    shots = 0 if kind == "sequence" else 2
    return NoisyPictures(kind, TaskShapes(TaskShape(3, shots, 2), TaskShape(3, 1, 3)))
