"""Methods that learn a stream: inner steps see the examples of the support set in its order, each of them once.

Javed & White: Meta-Learning Representations for Continual Learning, arXiv 1905.12588, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.batches import batches, in_order, part_ends
from pipeline.core.bounds import MAX_COUNT, Count, Rate
from pipeline.core.failures import ConfigError
from pipeline.core.inner import SGD, iterate
from pipeline.core.losses import LossFunction
from pipeline.core.network import HEAD, Network, head_of
from pipeline.core.recompute import Partial
from pipeline.core.types import Batch, Context, MayChange, MetaParams, Needs, Params, Phase, Task
from pipeline.families.gradient import BATCHES, GradientBased
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import refuse_batches

FRESH = "fresh"
"""The fresh rows of a head among a task's random tensors."""
SHOWN = "shown"
"""The numbers of these rows."""


@dataclass(frozen=True)
class OnlineConfig:
    """The steps on a stream.

    Attributes:
        inner_lr: Rate of a step in training.
        eval_inner_lr: Rate of a step at evaluation and in serving; ``null`` takes that of training.
        inner_batch: Consecutive examples of a step, a divisor of the stream's length.
        eval_shuffles: Passes over the shuffled examples at evaluation and in serving, in place of the stream: what a
            method would reach if nothing came in an order. 0 is the stream.
    """

    inner_lr: Rate = 0.03
    eval_inner_lr: Annotated[Rate | None, MayChange()] = None
    inner_batch: Count = 1
    eval_shuffles: Annotated[int, Ge(0), Le(MAX_COUNT), MayChange()] = 0


class Online(GradientBased):
    """The outer loop descends the loss of the query set after the whole stream, through all of its steps.

    The classes that a stream shows have fresh rows of the head at its start: the head cannot know them from an earlier
    stream. At evaluation the head has rows for the stream's classes alone. So a classifier's head is one linear layer.

    Raises:
        ConfigError: a normalisation that looks at a batch: a stream has none.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("classes", "values"), head=True)

    def __init__(self, config: OnlineConfig, model: Network, loss: LossFunction) -> None:
        refuse_batches(model.mode, f"{type(self).__name__} learns a stream")
        super().__init__(config, model, loss)
        self.features = model.net.features
        self.head = {name: tuple(leaf.shape) for name, leaf in head_of(model.init(np.random.default_rng())).items()}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The rows of each step; the classes that it shows, and a fresh row [features] of the head for each.

        Raises:
            ConfigError: ``inner_batch`` does not divide the stream; a classifier's head is no linear layer.
        """
        y = task.support.y
        rows = in_order(len(y), self.config.inner_batch)
        if self._shuffles(phase):
            rows = batches(rng, len(y), self._shuffles(phase) * len(rows), self.config.inner_batch)
        order = {BATCHES: rows}
        if y.is_floating_point():
            return order
        self._require_linear_head()
        shown = y.unique() if phase == "train" else torch.arange(task.ways)
        return order | {SHOWN: shown, FRESH: fan_in_normal(rng, (len(shown), self.features), self.features, 1.0)}

    def steps(self, context: Context) -> int:
        return len(context.noise[BATCHES])

    def milestones(self, context: Context) -> Sequence[int]:
        """The ends of a stream's parts, one for each way."""
        return () if self._shuffles(context.phase) else part_ends(self.steps(context), context.ways)

    def rule(self, context: Context) -> SGD:
        rate = self.config.inner_lr
        return SGD(rate if context.phase == "train" else self.config.eval_inner_lr or rate)

    def start(self, phi: Params, context: Context) -> Params:
        """The weights before the first example.

        Args:
            phi: those of theta.
            context: has the fresh rows among its noise, and whether others stay beside them: in training alone.
        """
        if FRESH not in context.noise:
            return phi
        fresh, shown = context.noise[FRESH], context.noise[SHOWN]
        alone = context.phase != "train"
        return phi | {
            name: _row(leaf, fresh) if alone else _set_rows(leaf, shown, _row(leaf, fresh))
            for name, leaf in head_of(phi).items()
        }

    def head_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        """An ``inner_trajectory`` that moves the head alone, on the features of a fixed body."""
        phi = self.start(theta["model"], context)
        features = self.model.embed(phi | self.model.masks(context.noise), self.model.net.reads(support))
        loss = Partial(self._loss_of_head, (features, support.y, context.noise[BATCHES]))
        for head in iterate(loss, head_of(phi), self.steps(context), self.rule(context), first_order=False):
            yield phi | head

    def _loss_of_head(self, features: Tensor, y: Tensor, rows: Tensor, head: Params, j: int) -> Tensor:
        seen = rows[j]
        return self.loss(self.model.net.read_out(head, features[seen]), y[seen]).loss

    def _shuffles(self, phase: Phase) -> int:
        return 0 if phase == "train" else self.config.eval_shuffles

    def _require_linear_head(self) -> None:
        (outputs, *_), weight = next(iter(self.head.values())), f"{HEAD}weight"
        linear = {weight: (outputs, self.features), f"{HEAD}bias": (outputs,)}
        if weight not in self.head or any(linear.get(name) != shape for name, shape in self.head.items()):
            found = ", ".join(f"{name} {list(shape)}" for name, shape in self.head.items())
            raise ConfigError(
                f"net.head: {type(self).__name__} gives new classes fresh rows of one linear layer, and the head has "
                f"{found}; name one linear layer [outputs, {self.features}]"
            )


def _row(leaf: Tensor, fresh: Tensor) -> Tensor:
    """Fresh rows of a weight, or zeros for a bias."""
    return fresh if leaf.dim() == 2 else fresh.new_zeros(len(fresh))


def _set_rows(leaf: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``leaf`` with other values in these rows, which have no gradient then."""
    at = rows.reshape(-1, *(1,) * (leaf.dim() - 1)).expand_as(values)
    return leaf.scatter(0, at, values)
