"""ANIL: MAML whose inner loop adapts the head alone; the body is learned by the outer loop and reused.

Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse?, arXiv 1909.09157, §4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import SGD, iterate
from pipeline.core.network import head_of
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class ANILConfig:
    """The inner loop, as MAML's.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    first_order: bool = False


class ANIL(GradientBased):
    """MAML's rule on the leaves ``head/…``; the support set goes through the body once, however many steps follow."""

    Config: ClassVar[type[ANILConfig]] = ANILConfig
    about: ClassVar[About] = About("optimisation", "Raghu et al. 2020, arXiv 1909.09157")

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        phi = theta["model"]
        read = self.model.net.reads(support)
        features = self.model.embed(phi | self.model.masks(context.noise), read)
        loss = Partial(self._loss_of_head, (features, support.y))
        rule, first_order = SGD(self.config.inner_lr), self.config.first_order
        for head in iterate(loss, head_of(phi), self.steps(context), rule, first_order=first_order):
            yield phi | head

    def _loss_of_head(self, features: Tensor, y: Tensor, head: Params, j: int) -> Tensor:
        return self.loss(self.model.net.read_out(head, features), y).loss
