"""Reptile: moves the initialisation towards the weights after several inner steps of plain training.

Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, arXiv 1803.02999.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.effects import NotWith, OnlyWith
from pipeline.core.inner import SGD, Adam, Rule, iterate
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Phase, Task
from pipeline.families.gradient import BATCHES, Delta, GradientBased


@dataclass(frozen=True)
class ReptileConfig:
    """The inner loop over mini-batches, dealt from shuffles of the support set.

    The published inner optimizer is Adam without momentum. Its second moments start at zero for each task here; the
    authors' code carries them from task to task, which makes the answer depend on the order of the tasks.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* loss of a mini-batch.
        inner_steps: Inner steps in training.
        inner_batch: Support examples in a mini-batch in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        eval_inner_batch: Support examples in a mini-batch at evaluation and in serving.
        inner_optimizer: What takes the inner steps.
        inner_beta1: Momentum of the inner Adam; 0 is published.
    """

    inner_lr: Rate = 1e-3
    inner_steps: InnerSteps = 5
    inner_batch: Count = 10
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 50
    eval_inner_batch: Annotated[Count, MayChange()] = 5
    inner_optimizer: Literal["sgd", "adam"] = "adam"
    inner_beta1: Annotated[
        float, Ge(0), Le(0.9999), OnlyWith("inner_optimizer", "adam"), NotWith(inner_steps=(1,), eval_inner_steps=(1,))
    ] = 0.0


class Reptile(GradientBased):
    """theta <- theta - epsilon · mean(theta - phi_k) (algorithm 2), so *before - after* takes a gradient's place.

    The query set is used for the training score only, with its own batch statistics.
    """

    Config: ClassVar[type[ReptileConfig]] = ReptileConfig
    meta_gradient = Delta()
    about: ClassVar[About] = About("optimisation", "Nichol, Achiam, Schulman 2018, arXiv 1803.02999")
    drops_in_steps = True

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """``batches`` [inner steps, batch]: rows of the support set."""
        steps, batch = (
            (self.config.inner_steps, self.config.inner_batch)
            if phase == "train"
            else (self.config.eval_inner_steps, self.config.eval_inner_batch)
        )
        return self.mini_batches(rng, task, steps, batch)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        fit, steps = self.support_loss(support, context), len(context.noise[BATCHES])
        # The delta is not differentiated, so no graph of the inner loop is kept.
        return iterate(fit, theta["model"], steps, self._rule(), first_order=True)

    def _rule(self) -> Rule:
        if self.config.inner_optimizer == "sgd":
            return SGD(self.config.inner_lr)
        return Adam(self.config.inner_lr, beta1=self.config.inner_beta1)
