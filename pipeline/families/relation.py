"""Relations: a network scores the similarity of a query and a class; the metric is learned too.

Sung, Yang, Zhang, Xiang, Torr, Hospedales: Learning to Compare: Relation Network for Few-Shot Learning,
arXiv 1711.06025.

Shapes: N support, Q query, C ways, D embedding, R references (classes, or support examples).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.losses import LossFunction, accuracy
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Batch, Context, MetaParams, Params, Score
from pipeline.families.metric import MetricBased, one_hot
from pipeline.nets.model import NormalisedNet
from pipeline.nets.relation import Relation


class Relations(NamedTuple):
    """References [R, D], each one's share in each class's score [R, C], the head and the encoder."""

    references: Tensor
    shares: Tensor
    relation: Adapted
    encoder: Adapted


class RelationBased(MetricBased[Relations]):
    """Gives each pair of a query and a reference a logit. ``config`` has ``hidden``, the width of the head.

    The head is a group of its own: the authors step and clip it apart from the encoder. It is normalised in the run's
    mode, its batch being the pairs of all queries and references. What ``support`` and ``one_query`` see of the support
    set are the pairs of its own examples with the references, and ``one_query`` adds one pair at a time to them.
    """

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        shape, normalised = model.net.feature_shape, model.mode != "none"
        self.head_net = Relation(Relation.Config(config.hidden), shape, 1, normalised=normalised)
        self.relation = NormalisedNet(self.head_net, model.mode, self.head_net.joined_shape)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"relation": self.relation.init(rng)}

    def extra_moments(self, theta: MetaParams) -> Params:
        return self.relation.running(theta["relation"])

    def references(self, z_ND: Tensor, member_NC: Tensor) -> tuple[Tensor, Tensor]:
        """References [R, D] and shares [R, C]. Default, as published: the sum of each class's embeddings."""
        ways = member_NC.shape[1]
        return member_NC.T @ z_ND, torch.eye(ways, dtype=z_ND.dtype, device=z_ND.device)

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Relations:
        z_ND, encoder = self.embed(theta, support, context)
        references, shares = self.references(z_ND, one_hot(support.y, context.ways, z_ND))
        head = theta["relation"]
        seen = self.head_net.join(head, references, z_ND)
        return Relations(references, shares, self.relation.adapted(head, seen, self.running(theta, context)), encoder)

    def logits(self, adapted: Relations, z_QD: Tensor) -> tuple[Tensor, Params]:
        """The logit of each query with each reference [Q, R], and the moments that the head saw."""
        pairs = self.head_net.join(adapted.relation.phi, adapted.references, z_QD)
        logits, moments = self.relation.observe(adapted.relation, pairs)
        return logits.reshape(len(z_QD), -1), moments


def squared_error(scores_QC: Tensor, y_Q: Tensor) -> Score:
    """Mean over queries and classes of the squared error to 1 (the query's class) or 0, and accuracy in [0, 1]."""
    loss = (scores_QC - one_hot(y_Q, scores_QC.shape[-1], scores_QC)).square().mean()
    return Score(loss, {"accuracy": accuracy(scores_QC, y_Q)})
