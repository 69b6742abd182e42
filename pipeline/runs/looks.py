"""Single tasks of a run, adapted in this process, for people to look at."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.build import Components
from pipeline.config import Recipe
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.types import Batch, Context, MetaParams, Phase, Points, Task
from pipeline.engine.trace import scored_points
from pipeline.pictures.tasks import Fit, Regression

GRID = 200
"""Inputs at which a regression is asked, from the lowest of its points to the highest."""


class Look(NamedTuple):
    """An evaluation task with its random tensors, and what adaptation yields at the points that are scored."""

    task: Task[Any]
    context: Context
    trace: dict[int, Any]

    @property
    def last(self) -> Any:
        """What adaptation yields in the end."""
        return list(self.trace.values())[-1]


class Answered(NamedTuple):
    """An evaluation task of classes, and the slots [Q] that its queries are answered after adaptation."""

    task: Task[Any]
    slots: np.ndarray


class Looks:
    """A recipe's tasks at one theta. Nothing is kept: of a large network, an adapted task may take gigabytes.

    Args:
        recipe: says which tasks are evaluated.
        components: its algorithm and source.
        vector: theta.
    """

    def __init__(self, recipe: Recipe, components: Components, vector: np.ndarray) -> None:
        self.recipe, self.components = recipe, components
        self.theta: MetaParams = components.layout.unpack(torch.from_numpy(vector))

    def evaluation(self, number: int) -> tuple[Task[Any], Context]:
        """Evaluation task ``number``."""
        wanted = self.recipe.evaluation
        return self.drawn(Ticket(wanted.seed, "evaluate", wanted.split, 0, number), "evaluate")

    def at(self, number: int) -> Look:
        """Evaluation task ``number``, adapted to."""
        task, context = self.evaluation(number)
        return Look(task, context, self.adapted(task, context))

    def drawn(self, ticket: Ticket, phase: Phase) -> tuple[Task[Any], Context]:
        """The task of a ticket in theta's dtype, and its random tensors."""
        task = self.components.source.sample(ticket)
        noise = self.components.algorithm.draw(ticket.rng("noise"), task, phase)
        task, noise = cast((task, noise), self.components.layout.dtype)
        return task, Context(ticket.step, phase, task.ways, noise)

    def adapted(self, task: Task[Any], context: Context) -> dict[int, Any]:
        """What adaptation yields at the points that are scored."""
        algorithm = self.components.algorithm
        with torch.no_grad():
            return scored_points(algorithm.trace(self.theta, task.support, context), algorithm.milestones(context))

    def predicted(self, adapted: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.components.algorithm.predict(adapted, x).detach()

    def answers(self, number: int) -> Answered:
        """Evaluation task ``number`` with its answers."""
        task, context = self.evaluation(number)
        with torch.no_grad():
            adapted = self.components.algorithm.adapt(self.theta, task.support, context)
        return Answered(task, self.predicted(adapted, task.query.x)[:, : task.ways].argmax(-1).numpy())


def is_curve(part: Any) -> bool:
    """Whether a set is of points (x, y), one number each."""
    return isinstance(part, Batch | Points) and part.x.shape[1:] == (1,) and part.y.shape[1:] == (1,)


def fit_of(looks: Looks, number: int) -> Regression:
    """Evaluation task ``number``, a curve, with what is answered to a grid before adaptation, on the way and after it.

    A code of a support set has no inner steps: it is shown after a fifth of the points and after all of them.
    """
    look = looks.at(number)
    support, query = look.task.support, look.task.query
    both = torch.cat([_real(support)[0], _real(query)[0]])
    grid = torch.linspace(float(both.min()), float(both.max()), GRID, dtype=both.dtype).unsqueeze(1)
    found = {}
    if isinstance(support, Points):
        few = max(1, len(_real(support)[0]) // 5)
        less = support._replace(mask=support.mask * (torch.arange(len(support.mask)) < few))
        *_, early = looks.adapted(look.task._replace(support=less), look.context).values()
        found = {"after a fifth of the support points": early, "after all support points": look.last}
    else:
        points = list(look.trace)
        for point in dict.fromkeys([points[0], *points[1:2], points[-1]]):
            found[_named(point, len(points))] = look.trace[point]
    fits = tuple(_as_fit(name, looks.predicted(adapted, grid)) for name, adapted in found.items())
    shown = [torch.cat(_real(part), 1).double().numpy() for part in (support, query)]
    return Regression(f"task {number + 1}", shown[0], shown[1], grid[:, 0].double().numpy(), fits)


def _named(point: int, points: int) -> str:
    if point == 0:
        return "before adaptation" if points > 1 else "adapted at once"
    return f"after {point} inner step{'s' * (point > 1)}"


def _real(part: Batch | Points) -> tuple[Tensor, Tensor]:
    """The inputs and values [N, 1] of a set, without padding."""
    kept = part.mask > 0 if isinstance(part, Points) else torch.ones(len(part.x), dtype=torch.bool)
    return part.x[kept], part.y[kept]


def _as_fit(name: str, outputs: Tensor) -> Fit:
    """Outputs [G, 1], or means and deviations [G, 2]."""
    mean, *deviation = outputs.double().numpy().T
    return Fit(name, mean, *deviation)
