"""MAML: an initialisation from which a few gradient steps solve a task.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import OptimizerName, optimizer
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Phase, Task
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class MAMLConfig:
    """MAML's inner loop.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
        inner_optimizer: What takes the inner steps; the moments of ``adam`` start at zero for each task.
        eval_inner_batch: Support examples in a mini-batch at evaluation and in serving, dealt from shuffles of the
            support set; ``null`` takes all, as training does.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    first_order: bool = False
    inner_optimizer: OptimizerName = "sgd"
    eval_inner_batch: Annotated[Count | None, MayChange()] = None


class MAML(GradientBased):
    """phi_0 = theta; phi_{j+1} = phi_j - alpha ∇L_support(phi_j); the outer loop descends L_query(phi_k) (eq. 1, 2).

    ``first_order`` drops the second derivatives (FOMAML, §5.2).
    """

    Config: ClassVar[type[MAMLConfig]] = MAMLConfig
    about: ClassVar[About] = About("optimisation", "Finn, Abbeel, Levine 2017, arXiv 1703.03400")
    drops_in_steps = True
    adapts_parts = True

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        batch = None if phase == "train" else self.config.eval_inner_batch
        return self.mini_batches(rng, task, self.config.eval_inner_steps, batch)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule = optimizer(self.config.inner_optimizer, self.config.inner_lr)
        return self.inner_loop(theta, support, context, rule, first_order=self.config.first_order)
