"""Meta-SGD: learns the initialisation and a rate for each weight, which also sets the direction of the inner step.

Li, Zhou, Chen, Li: Meta-SGD, Learning to Learn Quickly for Few-Shot Learning, arXiv 1707.09835.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import LeafwiseSGD
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class MetaSGDConfig:
    """The inner loop. Published is one inner step, everywhere.

    The authors draw the first rates from U(0.005, 0.1); here they are equal, so that the first step is MAML's.

    Attributes:
        inner_lr: What each learned rate starts at, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 1


class MetaSGD(GradientBased):
    """phi = theta - alpha ∘ ∇L_support(theta), with theta (``model``) and alpha (``inner_lr``) learned (§3)."""

    Config: ClassVar[type[MetaSGDConfig]] = MetaSGDConfig
    about: ClassVar[About] = About("optimisation", "Li et al. 2017, arXiv 1707.09835")
    drops_in_steps = True
    adapts_parts = True

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        rate, leaves = self.config.inner_lr, self.adapted_leaves(model)
        return {"inner_lr": {name: torch.full_like(leaf, rate) for name, leaf in leaves.items()}}

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule = LeafwiseSGD(Partial(_same, (theta["inner_lr"],)))
        return self.inner_loop(theta, support, context, rule, first_order=False)


def _same(rates: Params, j: int) -> Params:
    """The rates of every inner step."""
    return rates
