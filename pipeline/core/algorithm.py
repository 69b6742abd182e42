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
>>> toy = Mean(config=None, model=None, loss=None)
>>> gradient, score = toy.learn({"model": {"start": torch.zeros(())}}, task, Context(0, "train", 1, {}))
>>> score.loss.item(), gradient["model"]["start"].item()   # (1 - 4)², and 2 · (1 - 4) · ½
(9.0, -3.0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import A, About, Batch, Context, D, MetaParams, Needs, Params, Phase, Score, Task

__all__ = ["A", "About", "Algorithm", "Batch", "Context", "D", "Differentiable", "Game", "Needs", "Score", "Task"]


class Algorithm(ABC, Generic[D, A]):
    """Learns ``theta`` so that ``adapt`` on a support set makes ``predict`` good on its query set.

    ``A`` is what adaptation yields (weights, prototypes, a hidden state): a value that is returned, never kept on
    ``self``, so that one object serves any number of tasks at once. ``adapt``, ``objective`` and ``score`` are written
    for one task out of operations ``torch.func`` can transform: no writes in place, no ``.item()``, no branch on data.

    Args:
        config: an instance of ``Config``, as the recipe says.
        model: the recipe's network under its normalisation mode; it holds shapes, never weights.
        loss: the source's loss, from outputs [N, outputs] and targets [N, ...] to a ``Score``.
    """

    Config: ClassVar[type[Any]]
    """A frozen dataclass: the algorithm's fields in a recipe."""

    needs: ClassVar[Needs]
    """The tasks and the network that it takes."""

    about: ClassVar[About]
    """Its family and its paper, for the page of algorithms."""

    state_groups: frozenset[str] = frozenset()
    """Groups of theta that are never stepped by an optimizer, only folded."""

    frozen_groups: frozenset[str] = frozenset()
    """Groups of theta that stay what ``init`` drew."""

    differentiable: bool = False
    """Whether ``learn`` is the derivative of ``objective``. A worker then takes one backward pass for a whole chunk."""

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        self.config, self.model, self.loss = config, model, loss

    @property
    def unstepped(self) -> frozenset[str]:
        """Groups of theta that have no optimizer."""
        return self.state_groups | self.frozen_groups

    @abstractmethod
    def init(self, rng: np.random.Generator) -> MetaParams:
        """The first theta, in any floating dtype: the store casts it to the recipe's."""

    def draw(self, rng: np.random.Generator, task: Task[D], phase: Phase) -> Params:
        """All randomness of one task as tensors, drawn before any vectorisation. Default: none.

        Which tensors there are depends on the task's shape and the phase alone.
        """
        return {}

    @abstractmethod
    def adapt(self, theta: MetaParams, support: D, context: Context) -> A:
        """The inner loop."""

    def trace(self, theta: MetaParams, support: D, context: Context) -> Iterable[A]:
        """Before adaptation and after each inner step; the last equals ``adapt``. Default: ``adapt`` alone.

        An evaluation keeps few of a long trace, so a generator needs the memory of those few.
        """
        return (self.adapt(theta, support, context),)

    def milestones(self, context: Context) -> Sequence[int]:
        """The elements of ``trace`` at which the parts of a stream end, for an evaluation to score. Default: none."""
        return ()

    @abstractmethod
    def predict(self, adapted: A, x: Tensor) -> Tensor:
        """Outputs [N, outputs] for inputs [N, *input]: the same call in training, evaluation and serving."""

    @abstractmethod
    def score(self, adapted: A, query: D, context: Context) -> Score:
        """Loss and metrics of an adapted value on a query set."""

    def objective(self, theta: MetaParams, task: Task[D], context: Context) -> Score:
        """What the outer loop descends. Default: the query score after adaptation."""
        return self.score(self.adapt(theta, task.support, context), task.query, context)

    @abstractmethod
    def learn(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[MetaParams, Score]:
        """A gradient with respect to theta, or *before - after*. A group left out is not stepped."""

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        """The state groups after one outer step, given the used tasks' records in slot order. Default: unchanged."""
        return {}


class Differentiable(Algorithm[D, A]):
    """An algorithm whose meta-gradient is the derivative of ``objective``, by backpropagation."""

    differentiable = True

    @final
    def learn(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[MetaParams, Score]:
        return backprop(self, theta, task, context)


class Game(Algorithm[D, A]):
    """An algorithm in which each group of theta descends its own loss, for example a generator and a critic."""

    @abstractmethod
    def losses(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[dict[str, Tensor], Score]:
        """Each stepped group's loss, a scalar, and the score to report.

        A group that is not to be stepped at ``context.step`` is left out: a critic may be stepped more often than its
        generator. The groups must be the same for all tasks of a step. Each loss is reported as ``loss/GROUP``. Groups
        that are given one and the same tensor share its backward pass.
        """

    @final
    def learn(self, theta: MetaParams, task: Task[D], context: Context) -> tuple[MetaParams, Score]:
        first: dict[str, str] = {}
        """Group -> the first group that descends the same loss."""

        def play(stepped: MetaParams) -> tuple[dict[str, Tensor], Score]:
            losses, score = self.losses(theta | stepped, task, context)
            self._check(losses, stepped)
            for group, loss in losses.items():
                first[group] = next(name for name, other in losses.items() if other is loss)
            return {name: losses[name] for name in first.values()}, score

        stepped = {group: leaves for group, leaves in theta.items() if group not in self.unstepped}
        # torch.func, since a worker vectorises this over tasks. One pass forward, and one backward for each loss.
        losses, pull, score = torch.func.vjp(play, stepped, has_aux=True)  # type: ignore[misc]
        pulled = {}
        for one in losses:
            of_one = {name: torch.full_like(loss, float(name == one)) for name, loss in losses.items()}
            pulled[one] = pull(of_one)[0]
        gradient = {group: pulled[name][group] for group, name in first.items()}
        reported = {f"loss/{group}": losses[name] for group, name in first.items()}
        return gradient, detach(score._replace(metrics=score.metrics | reported))

    def _check(self, losses: dict[str, Tensor], stepped: MetaParams) -> None:
        name = type(self).__name__
        for group, loss in losses.items():
            if group not in stepped:
                raise ConfigError(
                    f"algorithm {name}: losses has the group {group}, which no optimizer steps; use some of "
                    f"{', '.join(sorted(stepped))}"
                )
            if loss.shape:
                raise ConfigError(
                    f"algorithm {name}: the loss of {group} has the shape {tuple(loss.shape)}, expected one number; "
                    "take the mean over the examples"
                )


@runtime_checkable
class Searches(Protocol):
    """An algorithm that can choose an architecture."""

    def cell(self, adapted: Any) -> tuple[str, ...]:
        """The op on each edge of a task's cell. Raises ``ConfigError`` where its network has no cell."""
        ...


class MemoryWeights(NamedTuple):
    """By which weights over slots T examples were read and written, [T, heads, slots], and their labels [T, …]."""

    read: Tensor
    written: Tensor
    labels: Tensor


@runtime_checkable
class Remembers(Protocol):
    """An algorithm with a memory that people can look at."""

    def memory_weights(self, theta: MetaParams, task: Task[Any], context: Context) -> MemoryWeights | None:
        """Where a task's examples are read and written, in the order in which they come; None without slots."""
        ...


def backprop(
    algorithm: Algorithm[D, A], theta: MetaParams, task: Task[D], context: Context
) -> tuple[MetaParams, Score]:
    """The derivative of an algorithm's ``objective`` with respect to theta, and the score of the objective."""
    leaves = require_grad(theta, algorithm.unstepped)
    score = algorithm.objective(leaves, task, context)
    return gradient_of(score.loss, leaves, algorithm.unstepped), detach(score)


def require_grad(theta: MetaParams, unstepped: frozenset[str]) -> MetaParams:
    """Theta as fresh leaves of a graph; groups without an optimizer stay constants."""
    return {
        group: {name: leaf.detach().requires_grad_(group not in unstepped) for name, leaf in leaves.items()}
        for group, leaves in theta.items()
    }


def gradient_of(loss: Tensor, theta: MetaParams, unstepped: frozenset[str]) -> MetaParams:
    """The gradient of ``loss`` with respect to theta; zeros for leaves that it does not depend on."""
    groups = [group for group in theta if group not in unstepped]
    leaves = [(group, name) for group in groups for name in theta[group]]
    values = torch.autograd.grad(
        loss, [theta[group][name] for group, name in leaves], allow_unused=True, materialize_grads=True
    )
    gradient: MetaParams = {group: {} for group in groups}
    for (group, name), value in zip(leaves, values, strict=True):
        gradient[group][name] = value
    return gradient


def detach(score: Score) -> Score:
    """The score's values without their graph."""
    return Score(
        score.loss.detach(),
        *({name: value.detach() for name, value in part.items()} for part in score[1:]),
    )
