"""CNP: a conditional neural process answers from the mean code of the support points.

Garnelo, Rosenbaum, Maddison et al.: Conditional Neural Processes, arXiv 1807.01613.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from pipeline.core.types import About, Context, MetaParams, Params, Points
from pipeline.families.neural_process import NeuralProcess, NeuralProcessConfig
from pipeline.nets.coding import masked_mean


class MeanCode(NamedTuple):
    """The weights, and the mean code r [D]."""

    phi: Params
    code: Tensor


class CNP(NeuralProcess[MeanCode]):
    """r = mean_i h(x_i, y_i); p(y|x) = N(g(x, r)) (eq. 1-3). Answers of different queries are independent."""

    Config: ClassVar[type[NeuralProcessConfig]] = NeuralProcessConfig
    about: ClassVar[About] = About("neural process", "Garnelo et al. 2018, arXiv 1807.01613")

    def adapt(self, theta: MetaParams, support: Points, context: Context) -> MeanCode:
        phi = self.weights(theta, context)
        _, codes = self.encoded(phi, support)
        return MeanCode(phi, masked_mean(codes, support.mask))

    def codes(self, adapted: MeanCode, z_QF: Tensor) -> Tensor:
        return adapted.code.expand(1, len(z_QF), -1)
