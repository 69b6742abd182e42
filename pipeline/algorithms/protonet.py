"""ProtoNet: a class is the mean of its support embeddings, a query belongs to the nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, arXiv 1703.05175.

Shapes: N support, Q query, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from annotated_types import Gt
from torch import Tensor

from pipeline.core.network import Adapted
from pipeline.core.types import About, Batch, Context, MetaParams, Params
from pipeline.families.metric import MetricBased, one_hot


@dataclass(frozen=True)
class ProtoNetConfig:
    """Squared distances are divided by ``temperature``; published is 1.

    Distances grow with the width of an embedding. Where the softmax gives a query's class all of its weight, loss
    and gradient are 0, and a higher temperature lets the network learn.
    """

    temperature: Annotated[float, Gt(0)] = 1.0


class Prototypes(NamedTuple):
    """Prototypes [C, D] and the encoder that made them."""

    means: Tensor
    encoder: Adapted


class ProtoNet(MetricBased[Prototypes]):
    """p(class | x) = softmax over classes of -‖f(x) - c‖² / temperature, c = mean f(the class's support) (eq. 1, 2)."""

    Config: ClassVar[type[ProtoNetConfig]] = ProtoNetConfig
    about: ClassVar[About] = About("metric", "Snell, Swersky, Zemel 2017, arXiv 1703.05175")

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Prototypes:
        z_ND, encoder = self.embed(theta, support, context)
        member_NC = one_hot(support.y, context.ways, z_ND)
        return Prototypes((member_NC.T @ z_ND) / member_NC.sum(0).unsqueeze(1), encoder)

    def compare(self, adapted: Prototypes, z_QD: Tensor) -> tuple[Tensor, Params]:
        """-‖z - c‖² as written, not expanded: the expansion loses digits where z and c are close."""
        squares_QC = (z_QD.unsqueeze(1) - adapted.means.unsqueeze(0)).square().sum(-1)
        return -squares_QC / self.config.temperature, {}
