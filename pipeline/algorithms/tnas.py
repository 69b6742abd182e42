"""T-NAS: a few inner steps adapt weights and architecture together, and the outer loop learns where both start.

Lian, Zheng, Xu, Lu, Lin, Zhao, Huang, Gao: Towards Fast Adaptation of Neural Architectures with Meta Learning, ICLR
2020, OpenReview r1eowANFvr.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import SGD, ByPrefix, InnerLoss, iterate
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.search import ArchitectureSearch
from pipeline.nets.search_space import ARCH, shares


@dataclass(frozen=True)
class TNASConfig:
    """The inner loop, as MAML's, with a rate for the architecture. Published are 5 inner steps, in first order.

    Attributes:
        inner_lr: Rate of an inner step of the weights, on the *mean* support loss.
        arch_lr: Rate of an inner step of the architecture.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
    """

    inner_lr: Rate = 0.1
    arch_lr: Rate = 30.0
    inner_steps: InnerSteps = 5
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 5
    first_order: bool = True


class TNAS(ArchitectureSearch):
    """(w, alpha)_{j+1} = (w - r ∇_w L_support, alpha - s ∇_alpha L_support) at (w, alpha)_j; the outer loop descends
    L_query((w, alpha)_k) in both.

    The authors decode an architecture for each task and train it from scratch. Here the decoded network is judged at
    the adapted weights, and trained from scratch by another run.
    """

    Config: ClassVar[type[TNASConfig]] = TNASConfig
    about: ClassVar[About] = About("optimisation", "Lian et al. 2020, OpenReview r1eowANFvr")

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        config, loss = self.config, Partial(_of_mixture, (self.support_loss(support, context),))
        rule = ByPrefix(f"{ARCH}/", SGD(config.arch_lr), SGD(config.inner_lr))
        start = theta["model"] | theta[ARCH]
        for phi in iterate(loss, start, self.steps(context), rule, first_order=config.first_order):
            yield phi | shares(phi)


def _of_mixture(fit: InnerLoss, phi: Params, j: int) -> Tensor:
    return fit(phi | shares(phi), j)
