"""RelationNet: learns the metric too, as a network that scores the similarity of a query and a class.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning,
arXiv 1711.06025.

Shapes: N support, Q query, C ways, D embedding, R references (classes, or support examples).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.losses import LossFunction, accuracy
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Params, Score
from pipeline.families.metric import MetricBased, one_hot
from pipeline.nets.model import NormalisedNet
from pipeline.nets.relation import Relation

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


class Relations(NamedTuple):
    """References [R, D], each one's share in each class's score [R, C], the head and the encoder."""

    references: Tensor
    shares: Tensor
    relation: Adapted
    encoder: Adapted


class RelationNet(MetricBased[Relations]):
    """score(class, x) = sigmoid(g([f(class), f(x)])), learned by its squared error to 1 or 0.

    The head is a group of its own: the authors step and clip it apart from the encoder. It is normalised in the run's
    mode, its batch being the pairs of all queries and references. What ``support`` and ``one_query`` see of the support
    set are the pairs of its own examples with the references, and ``one_query`` adds one pair at a time to them.
    """

    Config: ClassVar[type[RelationNetConfig]] = RelationNetConfig
    about: ClassVar[About] = About("metric", "Sung et al. 2018, arXiv 1711.06025")

    def __init__(self, config: RelationNetConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, _squared_error)
        shape, normalised = model.net.feature_shape, model.mode != "none"
        self.head_net = Relation(Relation.Config(config.hidden), shape, 1, normalised=normalised)
        self.relation = NormalisedNet(self.head_net, model.mode, self.head_net.joined_shape)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"relation": self.relation.init(rng)}

    def extra_moments(self, theta: MetaParams) -> Params:
        return self.relation.running(theta["relation"])

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Relations:
        z_ND, encoder = self.embed(theta, support, context)
        member_NC = one_hot(support.y, context.ways, z_ND)
        if self.config.aggregate == "feature_sum":
            references, shares = member_NC.T @ z_ND, torch.eye(context.ways, dtype=z_ND.dtype, device=z_ND.device)
        else:
            references, shares = z_ND, member_NC
        if self.config.aggregate == "score_mean":
            shares = shares / shares.sum(0)
        head = theta["relation"]
        seen = self.head_net.join(head, references, z_ND)
        return Relations(references, shares, self.relation.adapted(head, seen, self.running(theta, context)), encoder)

    def compare(self, adapted: Relations, z_QD: Tensor) -> tuple[Tensor, Params]:
        pairs = self.head_net.join(adapted.relation.phi, adapted.references, z_QD)
        logits, moments = self.relation.observe(adapted.relation, pairs)
        return torch.sigmoid(logits.reshape(len(z_QD), -1)) @ adapted.shares, moments


def _squared_error(scores_QC: Tensor, y_Q: Tensor) -> Score:
    """Mean over queries and classes of the squared error to 1 (the query's class) or 0, and accuracy in [0, 1]."""
    loss = (scores_QC - one_hot(y_Q, scores_QC.shape[-1], scores_QC)).square().mean()
    return Score(loss, {"accuracy": accuracy(scores_QC, y_Q)})
