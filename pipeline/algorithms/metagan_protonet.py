"""MetaGAN over ProtoNet: the fake class has a prototype too, which is learned.

Zhang, Che, Ghahramani, Bengio, Song: MetaGAN: An Adversarial Approach to Few-Shot Learning, NeurIPS 2018.

Shapes: N support, Q query, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Rate
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Params
from pipeline.families.adversarial import Adversarial, AdversarialConfig
from pipeline.families.metric import MetricBased, class_means, squared_distances


@dataclass(frozen=True, kw_only=True)
class MetaGANProtoNetConfig(AdversarialConfig):
    """ProtoNet's softmax over distances, and the fakes.

    Attributes:
        temperature: What squared distances are divided by.
    """

    temperature: Rate = 1.0


class Prototypes(NamedTuple):
    """Prototypes [C + 1, D], the last of them that of fakes, and the encoder that made the others."""

    means: Tensor
    encoder: Adapted


class Discriminator(MetricBased[Prototypes]):
    """ProtoNet with one more prototype: the group ``fake`` of theta, the same for all tasks."""

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"fake": {"prototype": torch.zeros(1, self.model.net.features)}}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Prototypes:
        z_ND, encoder = self.embed(theta, support, context)
        means_CD = class_means(z_ND, support.y, context.ways)
        return Prototypes(torch.cat([means_CD, theta["fake"]["prototype"]]), encoder)

    def compare(self, adapted: Prototypes, z_QD: Tensor) -> tuple[Tensor, Params]:
        return -squared_distances(z_QD, adapted.means) / self.config.temperature, {}


class MetaGANProtoNet(Adversarial[Prototypes]):
    """logit(class, x) = -‖f(x) - c‖² / temperature, for the N class means c and for a learned c of fakes."""

    Config: ClassVar[type[MetaGANProtoNetConfig]] = MetaGANProtoNetConfig
    needs: ClassVar[Needs] = MetricBased.needs
    about: ClassVar[About] = About("metric", "Zhang et al. 2018, NeurIPS")

    def make_discriminator(self, loss: LossFunction) -> Discriminator:
        return Discriminator(self.config, self.model, loss)
