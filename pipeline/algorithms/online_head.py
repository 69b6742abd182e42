"""A classifier of all training classes, on whose features a fresh head learns a stream: OML's rival, "pretraining".

Javed & White: Meta-Learning Representations for Continual Learning, arXiv 1905.12588, §4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from pipeline.core.bounds import MAX_COUNT, Count, Rate
from pipeline.core.inner import SGD
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Phase, Score, Task
from pipeline.families.frozen_body import all_data
from pipeline.families.online import Online


@dataclass(frozen=True)
class OnlineHeadConfig:
    """The steps on a stream, at evaluation and in serving. Training has none.

    Attributes:
        eval_inner_lr: Rate of a step.
        inner_batch: Consecutive examples of a step, a divisor of the stream's length.
        eval_shuffles: Passes over the shuffled examples in place of the stream: what a method would reach if nothing
            came in an order. 0 is the stream.
    """

    eval_inner_lr: Annotated[Rate, MayChange()] = 0.03
    inner_batch: Annotated[Count, MayChange()] = 1
    eval_shuffles: Annotated[int, Ge(0), Le(MAX_COUNT), MayChange()] = 0


class OnlineHead(Online):
    """Cross-entropy over all training classes; then W_{j+1} = W_j - alpha ∇_W l(W_j φ(x_j), y_j) from fresh rows."""

    Config: ClassVar[type[OnlineHeadConfig]] = OnlineHeadConfig
    about: ClassVar[About] = About("baseline", "Javed & White 2019, arXiv 1905.12588")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("classes",), head=True)

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        return {} if phase == "train" else super().extra_noise(rng, task, phase)

    def rule(self, context: Context) -> SGD:
        return SGD(self.config.eval_inner_lr)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        return iter([theta["model"]]) if context.phase == "train" else self.head_trajectory(theta, support, context)

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        everything = all_data(task)
        phi = theta["model"] | self.model.masks(context.noise)
        return self.loss(self.model.outputs(phi, everything), everything.y)
