"""Pre-training on all tasks at once, then fine-tuning on a support set: the baseline of MAML's regressions.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400, §5.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import OptimizerName, optimizer
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Pairs, Params, Phase, Score, Task
from pipeline.families.frozen_body import all_data
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class PretrainConfig:
    """How it is fine-tuned. Training has no inner steps.

    Attributes:
        eval_inner_optimizer: What takes the steps.
        eval_inner_lr: Rate of a step, on the *mean* support loss.
        eval_inner_steps: Inner steps at evaluation and in serving.
        eval_inner_batch: Support examples in a mini-batch, dealt from shuffles of the support set; ``null`` takes all.
    """

    eval_inner_optimizer: Annotated[OptimizerName, MayChange()] = "sgd"
    eval_inner_lr: Annotated[Rate, MayChange()] = 0.01
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    eval_inner_batch: Annotated[Count | None, MayChange()] = None


class Pretrain(GradientBased):
    """One network is fitted to the examples of all tasks, so it learns their mean; then all of it is fine-tuned.

    On languages this is multi-task training and fine-tuning. Not for classifications: there the slots mean something
    else in each task, see ``baseline``.
    """

    Config: ClassVar[type[PretrainConfig]] = PretrainConfig
    about: ClassVar[About] = About("baseline", "Finn, Abbeel, Levine 2017, arXiv 1703.03400")
    drops_in_steps = True
    adapts_parts = True
    needs: ClassVar[Needs] = Needs(data=(Batch, Pairs), targets=("values", "tokens"), head=True)

    def steps(self, context: Context) -> int:
        return 0 if context.phase == "train" else self.config.eval_inner_steps

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        batch = None if phase == "train" else self.config.eval_inner_batch
        return self.mini_batches(rng, task, self.config.eval_inner_steps, batch)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule = optimizer(self.config.eval_inner_optimizer, self.config.eval_inner_lr)
        return self.inner_loop(theta, support, context, rule, first_order=True)

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        everything = all_data(task)
        phi = theta["model"] | self.model.masks(context.noise)
        return self.loss(self.model.outputs(phi, everything), everything.y)
