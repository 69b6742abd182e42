"""Small tasks of every kind that need no file."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.core.actions import Actions
from pipeline.core.algorithm import Algorithm
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes, TaskSource, Tokens
from pipeline.core.types import Batch, Pairs, Points, Sets, Simulator, Stream, Targets, Task
from pipeline.tasks.bandits import Bandits
from pipeline.tasks.ciphers import Ciphers
from pipeline.tasks.gp_curves import GPCurves
from pipeline.tasks.navigation import Navigation
from pipeline.tasks.quadratics import Quadratics
from pipeline.tasks.sinusoid import Sinusoid

SPECS: dict[str, Spec] = {
    "classification": Spec(Batch, (1, 16, 16), 3, "slots", "cross_entropy"),
    "classes": Spec(Batch, (1, 16, 16), 5, "classes", "cross_entropy"),
    "labels": Spec(Batch, (1, 16, 16), 3, "labels", "cross_entropy"),
    "regression": Spec(Batch, (1,), 1, "values", "mean_squared_error"),
    "sequence": Spec(Stream, (1, 16, 16), 3, "slots", "cross_entropy"),
    "sets": Spec(Sets, (1, 16, 16), 4, "slots", "cross_entropy"),
    "density": Spec(Points, (1,), 1, "values", "gaussian"),
    "optimisation": Spec(Batch, (10,), 1, "values", "sum_of_squares"),
    "choices": Spec(Simulator, (1,), 3, "none", "return", actions=Actions(3, discrete=True)),
    "control": Spec(Simulator, (2,), 4, "none", "return", actions=Actions(2, discrete=False)),
    "transduction": Spec(Pairs, (3,), 7, "tokens", "tokens", integers=True, tokens=Tokens(7, 4)),
}
"""Small tasks by name."""


class NoisyPictures:
    """Pictures 1×16×16 of noise around a pattern of their class; the patterns are drawn with each task.

    With more ``classes`` than a task has ways, training tasks label with the numbers of some of them.
    Of ``Sets`` there are two, each of half of the classes.
    With ``fixed``, tasks say that their classes are the same in all of them.
    """

    Config: ClassVar[type[Any]] = type(None)
    splits: tuple[Split, ...] = ("train", "val", "test")
    fingerprint = "noisy pictures"

    def __init__(self, data: type, shapes: TaskShapes, classes: int = 0, *, fixed: bool = False) -> None:
        self._data, self._shapes, self._classes = data, shapes, classes
        self._targets: Targets = "labels" if fixed else "slots"

    def spec(self) -> Spec:
        if self._classes:
            return Spec(self._data, (1, 16, 16), self._classes, "classes", "cross_entropy")
        return Spec(self._data, (1, 16, 16), self._shapes.train.ways, self._targets, "cross_entropy")

    def sample(self, ticket: Ticket) -> Task[Any]:
        rng, shape = ticket.rng("task"), self._shapes.of(ticket)
        patterns = rng.normal(size=(shape.ways, 1, 16, 16))
        numbered = self._classes and ticket.purpose == "train"
        labels = rng.choice(self._classes, shape.ways, replace=False) if numbered else np.arange(shape.ways)

        def examples(each: int, data: type) -> Any:
            y = rng.permutation(shape.ways * each) % shape.ways
            x = torch.from_numpy(patterns[y] + 0.5 * rng.normal(size=(len(y), 1, 16, 16)))
            number = (torch.from_numpy(2 * y // shape.ways),) if data is Sets else ()
            return data(x.float(), torch.from_numpy(labels[y]), *number)

        asked = Batch if self._data is Sets else self._data
        return Task(ticket.id, examples(shape.shots, self._data), examples(shape.queries, asked), shape.ways)


def small_tasks(name: str) -> TaskSource[Any]:
    """The small tasks of a name in ``SPECS``; evaluation tasks have another shape than training tasks."""
    if name == "regression":
        return Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)))
    if name == "density":
        return GPCurves(GPCurves.Config(), TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)))
    if name == "transduction":
        return Ciphers(Ciphers.Config(letters=4, lengths=(2, 3)), TaskShapes(TaskShape(1, 4, 3), TaskShape(1, 3, 4)))
    if name == "choices":
        return Bandits(Bandits.Config(arms=3, horizon=2), TaskShapes(TaskShape(1, 20, 2), TaskShape(1, 40, 3)))
    if name == "control":
        return Navigation(Navigation.Config(horizon=2), TaskShapes(TaskShape(1, 20, 2), TaskShape(1, 40, 3)))
    if name == "optimisation":
        return Quadratics(Quadratics.Config(), TaskShapes(TaskShape(1, 6, 6), TaskShape(1, 5, 5)))
    data, classes = SPECS[name].data, SPECS[name].outputs if name == "classes" else 0
    ways = 4 if data is Sets else 3
    return NoisyPictures(
        data,
        TaskShapes(TaskShape(ways, 0 if data is Stream else 2, 2), TaskShape(ways, 1, 3)),
        classes,
        fixed=name == "labels",
    )


def taken_by(algorithm: type[Algorithm[Any, Any]]) -> list[str]:
    """The names of the small tasks that an algorithm takes."""
    needs, family = algorithm.needs, algorithm.about.family
    # A function to be made small is a regression without noise: learned optimisers stand for all methods on it.
    return [
        name
        for name, spec in sorted(SPECS.items())
        if spec.data in needs.data
        and spec.targets in needs.targets
        and (name != "optimisation" or family == "learned optimiser")
    ]
