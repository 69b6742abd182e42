"""Fine-tuning from a random initialisation: uses the support set and no other task.

Many papers call this baseline "random" or "from scratch".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import OptimizerName, optimizer
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Pairs, Params, Phase, Task
from pipeline.families.gradient import GradientBased, Nothing


@dataclass(frozen=True)
class FinetuneConfig:
    """Steps on the *mean* loss of the support set, or of a mini-batch of it, in every phase.

    Attributes:
        inner_optimizer: What takes the steps.
        inner_lr: Rate of a step.
        inner_steps: Steps for each task.
        inner_batch: Support examples in a mini-batch, dealt from shuffles of the support set; ``null`` takes all.
    """

    inner_optimizer: Annotated[OptimizerName, MayChange()] = "sgd"
    inner_lr: Annotated[Rate, MayChange()] = 0.01
    inner_steps: Annotated[InnerSteps, MayChange()] = 50
    inner_batch: Annotated[Count | None, MayChange()] = None


class Finetune(GradientBased):
    """Theta stays what ``init`` drew from the run's seed. No optimizer steps it, and outer steps do nothing.

    A run of one step is enough; more of them are more evaluations of the same theta on training tasks.
    """

    Config: ClassVar[type[FinetuneConfig]] = FinetuneConfig
    about: ClassVar[About] = About("baseline", "none: plain supervised training on each support set")
    needs: ClassVar[Needs] = Needs(data=(Batch, Pairs), targets=("slots", "labels", "values", "tokens"), head=True)
    drops_in_steps = True
    adapts_parts = True
    meta_gradient = Nothing()
    frozen_groups = frozenset({"model"})

    def steps(self, context: Context) -> int:
        return self.config.inner_steps

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        return self.mini_batches(rng, task, self.config.inner_steps, self.config.inner_batch)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule = optimizer(self.config.inner_optimizer, self.config.inner_lr)
        return self.inner_loop(theta, support, context, rule, first_order=True)
