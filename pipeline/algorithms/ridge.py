"""Ridge regression on learned features: the head is a closed form of the support set, and the body learns through it.

Bertinetto, Henriques, Torr, Vedaldi: Meta-learning with Differentiable Closed-form Solvers (R2-D2), arXiv 1805.08136.

Shapes: N support, Q query, D features, Y outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Divisor
from pipeline.core.network import Adapted
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Params
from pipeline.families.metric import MetricBased, one_hot


@dataclass(frozen=True)
class RidgeConfig:
    """The regression.

    Attributes:
        penalty: What the weight of the squared norm of a head starts at, beside the *sum* of squared errors; it is
            learned.
    """

    penalty: Divisor = 1.0


class RidgeHead(NamedTuple):
    """A task's head [D, Y], the scale of its outputs, and the encoder of the queries."""

    weight: Tensor
    scale: Tensor
    encoder: Adapted


class Ridge(MetricBased[RidgeHead]):
    """W = argmin ‖ZW - Y‖² + lambda ‖W‖², with features Z = f(support); a query's outputs are s f(x) W.

    A classification regresses one-hot labels, and its outputs are logits. lambda and s are learned with the body: they
    are the group ``ridge``. The authors learn a shift of all outputs too, which a softmax does not see.

    On an open search space this is a bilevel search (DARTS, arXiv 1806.09055, eq. 3) without an approximation: W is the
    optimum on the support set, and the group ``arch`` descends the loss on the query set through it.
    """

    Config: ClassVar[type[RidgeConfig]] = RidgeConfig
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=False)
    about: ClassVar[About] = About("optimisation", "Bertinetto et al. 2019, arXiv 1805.08136")

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"ridge": {"log_penalty": torch.tensor(math.log(self.config.penalty)), "scale": torch.ones(())}}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> RidgeHead:
        z_ND, encoder = self.embed(theta, support, context)
        learned, y = theta["ridge"], support.y
        y_NY = y.to(z_ND.dtype) if y.is_floating_point() else one_hot(y, context.ways, z_ND)
        weight_DY = ridge(z_ND, y_NY, learned["log_penalty"].exp())
        return RidgeHead(weight_DY, learned["scale"], encoder)

    def compare(self, adapted: RidgeHead, z_QD: Tensor) -> tuple[Tensor, Params]:
        return adapted.scale * (z_QD @ adapted.weight), {}


def ridge(z_ND: Tensor, y_NY: Tensor, penalty: Tensor) -> Tensor:
    """argmin over W [D, Y] of ‖ZW - Y‖² + penalty ‖W‖².

    (ZᵀZ + penalty I)⁻¹ ZᵀY, or Zᵀ(ZZᵀ + penalty I)⁻¹ Y where that is the smaller system.
    """
    rows, features = z_ND.shape
    size = min(rows, features)
    damping = penalty * torch.eye(size, dtype=z_ND.dtype, device=z_ND.device)
    if features <= rows:
        return torch.linalg.solve(z_ND.T @ z_ND + damping, z_ND.T @ y_NY)
    return z_ND.T @ torch.linalg.solve(z_ND @ z_ND.T + damping, y_NY)
