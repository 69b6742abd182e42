"""ANP: an attentive neural process looks at the support points that are near a query, in place of their mean.

Kim, Mnih, Schwarz et al.: Attentive Neural Processes, arXiv 1901.05761.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Params, Points
from pipeline.families.latent_process import LatentProcess, LatentProcessConfig
from pipeline.nets.coding import Perceptron, attend


@dataclass(frozen=True, kw_only=True)
class ANPConfig(LatentProcessConfig):
    """Encoder, decoder and latent variable, and attention.

    Attributes:
        heads: Heads of the cross-attention, which share out ``width``.
    """

    heads: Annotated[int, Ge(1), Le(64)] = 8


class AttendedCode(NamedTuple):
    """The weights, the support's keys [N, D] and codes [N, D], its mask [N], and K samples of z [K, L]."""

    phi: Params
    keys: Tensor
    values: Tensor
    mask: Tensor
    z: Tensor


class ANP(LatentProcess[AttendedCode]):
    """r(x) is, for each query, the cross-attention of its key over the keys of the support points (§3).

    Keys are made of inputs alone. The published self-attention between support points is left out.

    Raises:
        ConfigError: the heads do not divide the width.
    """

    Config: ClassVar[type[ANPConfig]] = ANPConfig
    about: ClassVar[About] = About("neural process", "Kim et al. 2019, arXiv 1901.05761")

    def __init__(self, config: ANPConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        if config.width % config.heads:
            raise ConfigError(
                f"algorithm.heads: {config.heads}, but the width {config.width} cannot be shared out among them; use a "
                "number that divides it"
            )
        self.keys = Perceptron("keys", (self.features,), config.width, 2, config.width)

    def parts(self) -> tuple[Perceptron, ...]:
        return (*super().parts(), self.keys)

    def coded(self, phi: Params, support: Points, z: Tensor) -> AttendedCode:
        z_NF, codes = self.encoded(phi, support)
        return AttendedCode(phi, self.keys(phi, z_NF), codes, support.mask, z)

    def deterministic(self, adapted: AttendedCode, z_QF: Tensor) -> Tensor:
        queries = self.keys(adapted.phi, z_QF)
        return attend(queries, adapted.keys, adapted.values, adapted.mask, self.config.heads)
