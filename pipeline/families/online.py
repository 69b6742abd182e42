"""Methods that learn a stream: one inner step for each example, in the order of the support set.

Javed & White: Meta-Learning Representations for Continual Learning, arXiv 1905.12588, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.batches import in_order
from pipeline.core.bounds import Count, Rate
from pipeline.core.failures import ConfigError
from pipeline.core.inner import SGD
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network, head_of
from pipeline.core.types import Batch, Context, MayChange, Needs, Params, Phase, Task
from pipeline.families.gradient import BATCHES, GradientBased
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import BATCH_MODES

FRESH, SHOWN = "fresh", "shown"
"""The fresh rows of a head, and which they are, among a task's random tensors."""


@dataclass(frozen=True)
class OnlineConfig:
    """The steps on a stream.

    Attributes:
        inner_lr: Rate of a step in training.
        eval_inner_lr: Rate of a step at evaluation and in serving; ``null`` takes that of training.
        inner_batch: Consecutive examples of a step. Published is 1, and 10 for the regression.
    """

    inner_lr: Rate = 0.03
    eval_inner_lr: Annotated[Rate | None, MayChange()] = None
    inner_batch: Count = 1


class Online(GradientBased):
    """The outer loop descends the loss of the query set after the whole stream, through all of its steps.

    Where the source counts classes (``labels: classes``), the classes that a stream shows have fresh rows of the head
    at its start: the head cannot know them from an earlier stream. At evaluation the head has rows for the stream's
    classes alone.

    Raises:
        ConfigError: a normalisation that looks at a batch: a stream has none.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "classes", "values"), head=True)

    def __init__(self, config: OnlineConfig, model: Network, loss: LossFunction) -> None:
        if model.mode in BATCH_MODES:
            raise ConfigError(
                f"normalisation: {model.mode!r} looks at a batch, and {type(self).__name__} sees examples one by one; "
                "use none, layer or group"
            )
        super().__init__(config, model, loss)
        self.features, self.outputs = model.net.features, model.net.outputs

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The order of the stream; the classes that it shows, and a fresh row [features] of the head for each."""
        y = task.support.y
        order = {BATCHES: in_order(len(y), self.config.inner_batch)}
        if y.is_floating_point() or task.ways == self.outputs:
            return order
        shown = y.unique() if phase == "train" else torch.arange(task.ways)
        return order | {SHOWN: shown, FRESH: fan_in_normal(rng, (len(shown), self.features), self.features, 1.0)}

    def steps(self, context: Context) -> int:
        return len(context.noise[BATCHES])

    def rule(self, context: Context) -> SGD:
        rate = self.config.inner_lr
        return SGD(rate if context.phase == "train" else self.config.eval_inner_lr or rate)

    def start(self, phi: Params, context: Context) -> Params:
        """The weights before the first example."""
        if FRESH not in context.noise:
            return phi
        fresh, shown = context.noise[FRESH], context.noise[SHOWN]
        alone = context.phase != "train"
        return phi | {
            name: _row(leaf, fresh) if alone else _set_rows(leaf, shown, _row(leaf, fresh))
            for name, leaf in head_of(phi).items()
        }


def _row(leaf: Tensor, fresh: Tensor) -> Tensor:
    """Fresh rows of a weight, or zeros for a bias."""
    return fresh if leaf.dim() == 2 else fresh.new_zeros(len(fresh))


def _set_rows(leaf: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``leaf`` with other values in these rows, which have no gradient then."""
    at = rows.reshape(-1, *(1,) * (leaf.dim() - 1)).expand_as(values)
    return leaf.scatter(0, at, values)
