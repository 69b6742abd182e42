"""NP: a neural process adds a latent variable to the mean code, which makes the answers of one sample agree.

Garnelo, Schwarz, Rosenbaum et al.: Neural Processes, arXiv 1807.01622.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from pipeline.core.types import About, Params, Points
from pipeline.families.latent_process import LatentProcess, LatentProcessConfig
from pipeline.nets.coding import masked_mean


class LatentCode(NamedTuple):
    """The weights, the mean code r [D], and K samples of z [K, L]."""

    phi: Params
    code: Tensor
    z: Tensor


class NP(LatentProcess[LatentCode]):
    """r = mean_i h(x_i, y_i), as in CNP.

    The mean code beside z is that of the authors' later code; in the paper z alone tells tasks apart.
    """

    Config: ClassVar[type[LatentProcessConfig]] = LatentProcessConfig
    about: ClassVar[About] = About("neural process", "Garnelo et al. 2018, arXiv 1807.01622")

    def coded(self, phi: Params, support: Points, z: Tensor) -> LatentCode:
        _, codes = self.encoded(phi, support)
        return LatentCode(phi, masked_mean(codes, support.mask), z)

    def deterministic(self, adapted: LatentCode, z_QF: Tensor) -> Tensor:
        return adapted.code
