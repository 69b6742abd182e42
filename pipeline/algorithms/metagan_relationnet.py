"""MetaGAN over RelationNet: a query is a fake where it is similar to no class.

Zhang, Che, Ghahramani, Bengio, Song: MetaGAN: An Adversarial Approach to Few-Shot Learning, NeurIPS 2018.

Shapes: Q query, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Needs, Params, Score
from pipeline.families.adversarial import Adversarial, AdversarialConfig
from pipeline.families.metric import MetricBased
from pipeline.families.relation import RelationBased, Relations, squared_error


@dataclass(frozen=True, kw_only=True)
class MetaGANRelationNetConfig(AdversarialConfig):
    """RelationNet's head that compares a query with the sum of a class's embeddings, and the fakes.

    Attributes:
        hidden: Width of the head's linear layer.
    """

    hidden: Width = 8


class Discriminator(RelationBased):
    """RelationNet's logits, and 0 for the fake class: all logits may be shifted together, so one of them is free."""

    def compare(self, adapted: Relations, z_QD: Tensor) -> tuple[Tensor, Params]:
        logits_QC, moments = self.logits(adapted, z_QD)
        return torch.cat([logits_QC, torch.zeros_like(logits_QC[:, :1])], 1), moments


class MetaGANRelationNet(Adversarial[Relations]):
    """logit(class, x) = g([f(class), f(x)]) and logit(fake, x) = 0. The score of a class is the sigmoid of its logit.

    The loss of the classes is RelationNet's squared error of the scores.
    """

    Config: ClassVar[type[MetaGANRelationNetConfig]] = MetaGANRelationNetConfig
    needs: ClassVar[Needs] = MetricBased.needs
    about: ClassVar[About] = About("metric", "Zhang et al. 2018, NeurIPS")

    def __init__(self, config: MetaGANRelationNetConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, _loss)

    def make_discriminator(self, loss: LossFunction) -> Discriminator:
        return Discriminator(self.config, self.model, loss)


def _loss(logits_QC: Tensor, y_Q: Tensor) -> Score:
    return squared_error(torch.sigmoid(logits_QC), y_Q)
