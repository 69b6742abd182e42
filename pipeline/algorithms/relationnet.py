"""RelationNet: learns the metric too, as a network that scores the similarity of a query and a class.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning,
arXiv 1711.06025.

Shapes: Q query, D embedding, R references (classes, or support examples).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Params
from pipeline.families.relation import RelationBased, Relations, squared_error

Aggregate = Literal["feature_sum", "score_sum", "score_mean"]


@dataclass(frozen=True)
class RelationNetConfig:
    """The head that compares a query with a class.

    Attributes:
        aggregate: ``feature_sum``, the published one, compares a query with the sum of a class's embeddings; the others
            compare it with each support example and sum or average the scores.
        hidden: Width of the head's linear layer.
    """

    aggregate: Aggregate = "feature_sum"
    hidden: Width = 8


class RelationNet(RelationBased):
    """score(class, x) = sigmoid(g([f(class), f(x)])), learned by its squared error to 1 or 0."""

    Config: ClassVar[type[RelationNetConfig]] = RelationNetConfig
    about: ClassVar[About] = About("metric", "Sung et al. 2018, arXiv 1711.06025")

    def __init__(self, config: RelationNetConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, squared_error)

    def references(self, z_ND: Tensor, member_NC: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.aggregate == "feature_sum":
            return super().references(z_ND, member_NC)
        return z_ND, member_NC / member_NC.sum(0) if self.config.aggregate == "score_mean" else member_NC

    def compare(self, adapted: Relations, z_QD: Tensor) -> tuple[Tensor, Params]:
        logits_QR, moments = self.logits(adapted, z_QD)
        return torch.sigmoid(logits_QR) @ adapted.shares, moments
