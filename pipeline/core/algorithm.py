"""The contract every algorithm keeps. An algorithm knows nothing of Ray, workers or optimizers.

A complete toy: theta is one number, a task's answer is the mean of its support labels, and the meta-gradient pulls
theta towards it.

>>> class Mean(Differentiable[Batch, Tensor]):
...     def init(self, rng):
...         return {"model": {"start": torch.zeros(())}}
...     def adapt(self, theta, support, context):
...         return (theta["model"]["start"] + support.y.mean()) / 2
...     def predict(self, adapted, x):
...         return adapted.expand(len(x))
...     def score(self, adapted, query, context):
...         return Score(((self.predict(adapted, query.x) - query.y) ** 2).mean(), {})
>>> task = Task("toy", Batch(torch.zeros(2), torch.tensor([1.0, 3.0])), Batch(torch.zeros(1), torch.tensor([4.0])))
>>> gradient, score = Mean().learn({"model": {"start": torch.zeros(())}}, task, Context(0, "train", 1, {}))
>>> score.loss.item(), gradient["model"]["start"].item()   # (1 - 4)², and 2 · (1 - 4) · ½
(9.0, -3.0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import A, Batch, Context, D, Family, Kind, Labels, MetaParams, Params, Phase, Score, Task

__all__ = ["A", "Algorithm", "Batch", "Context", "D", "Differentiable", "Score", "Task", "gradient_of"]


class Algorithm(ABC, Generic[D, A]):
    """Learns ``theta`` so that ``adapt`` on a support set makes ``predict`` good on its query set.

    ``A`` is what adaptation yields (weights, prototypes, a hidden state): a value that is returned, never kept on
    ``self``, so that one object serves any number of tasks at once. ``adapt``, ``objective`` and ``score`` are written
    for one task out of operations ``torch.func`` can transform: no writes in place, no ``.item()``, no branch on data.
    """

    Config: ClassVar[type[Any]]
    """A frozen dataclass: the algorithm's fields in a recipe."""

    family: ClassVar[Family]

    paper: ClassVar[str]
    """Its source: authors and year, and the arXiv number where there is one."""

    sends: ClassVar[str] = "the gradient of theta"
    """What a worker sends to the parameter actor."""

    kinds: ClassVar[frozenset[Kind]]
    """The kinds of tasks it can learn."""

    head: ClassVar[bool]
    """Whether its network ends in one output per way (a metric method embeds instead)."""

    labels: ClassVar[Labels] = "slots"
    """What the labels of its training tasks must count; those of evaluation tasks are slots."""

    state_groups: frozenset[str] = frozenset()
    """Groups of theta that are never stepped by an optimizer, only folded."""

    @abstractmethod
    def init(self, rng: np.random.Generator) -> MetaParams:
        """The first theta, in any floating dtype: the store casts it to the recipe's."""

    def draw(self, rng: np.random.Generator, task: Task[D], phase: Phase) -> Params:
        """All randomness of one task, as tensors, before any vectorisation. Default: none."""
        return {}

    @abstractmethod
    def adapt(self, theta: MetaParams, support: D, context: Context) -> A:
        """The inner loop."""

    def trace(self, theta: MetaParams, support: D, context: Context) -> tuple[A, ...]:
        """Before adaptation and after each inner step; the last equals ``adapt``. Default: ``adapt`` alone."""
        return (self.adapt(theta, support, context),)

    @abstractmethod
    def predict(self, adapted: A, x: Tensor) -> Tensor:
        """Outputs [N, outputs] for inputs [N, *input]: the same call in training, evaluation and serving."""

    @abstractmethod
    def score(self, adapted: A, query: D, context: Context) -> Score:
        """Loss and metrics of an adapted value on a query set."""

    @abstractmethod
    def learn(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[MetaParams, Score]:
        """A gradient with respect to theta, or *before - after*. A group left out is not stepped."""

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        """The state groups after one outer step, given the used tasks' records in slot order. Default: unchanged."""
        return {}


class Differentiable(Algorithm[D, A]):
    """An algorithm whose meta-gradient is the derivative of an objective."""

    def objective(self, theta: MetaParams, task: Task[D], context: Context) -> Score:
        """What the outer loop descends. Default: the query score after adaptation."""
        return self.score(self.adapt(theta, task.support, context), task.query, context)

    @final
    def learn(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[MetaParams, Score]:
        leaves = require_grad(theta, self.state_groups)
        score = self.objective(leaves, task, context)
        return gradient_of(score.loss, leaves, self.state_groups), detach(score)


def require_grad(theta: MetaParams, state_groups: frozenset[str]) -> MetaParams:
    """Theta as fresh leaves of a graph; state groups stay constants."""
    return {
        group: {name: leaf.detach().requires_grad_(group not in state_groups) for name, leaf in leaves.items()}
        for group, leaves in theta.items()
    }


def gradient_of(loss: Tensor | dict[str, Tensor], theta: MetaParams, state_groups: frozenset[str]) -> MetaParams:
    """The gradient of ``loss`` (or of each group's own) with respect to theta; zeros where a leaf plays no part."""
    if isinstance(loss, Tensor):
        groups = [group for group in theta if group not in state_groups]
        leaves = [(group, name) for group in groups for name in theta[group]]
        values = torch.autograd.grad(
            loss, [theta[group][name] for group, name in leaves], allow_unused=True, materialize_grads=True
        )
        gradient: MetaParams = {group: {} for group in groups}
        for (group, name), value in zip(leaves, values, strict=True):
            gradient[group][name] = value
        return gradient
    return {
        group: dict(
            zip(
                theta[group],
                torch.autograd.grad(
                    own, list(theta[group].values()), retain_graph=True, allow_unused=True, materialize_grads=True
                ),
                strict=True,
            )
        )
        for group, own in loss.items()
    }


def detach(score: Score) -> Score:
    """The score's values without their graph."""
    loss = score.loss
    return Score(
        loss.detach() if isinstance(loss, Tensor) else {group: value.detach() for group, value in loss.items()},
        {name: value.detach() for name, value in score.metrics.items()},
        {name: value.detach() for name, value in score.records.items()},
    )
