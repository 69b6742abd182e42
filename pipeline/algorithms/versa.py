"""VERSA: a network infers the weights of each class's row of the head, as a Gaussian, from the mean of its features.

Gordon, Bronskill, Bauer, Nowozin, Turner: Meta-Learning Probabilistic Inference For Prediction, arXiv 1805.09921.

Shapes: N support, Q query, C ways, D features, K samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.losses import LossFunction, log_mean_exp
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Params, Phase, Task
from pipeline.families.metric import MetricBased, one_hot
from pipeline.nets.coding import Perceptron


@dataclass(frozen=True, kw_only=True)
class VERSAConfig:
    """The network that infers, and how many heads are drawn from what it infers.

    Attributes:
        width: Of its hidden layers.
        layers: Its hidden layers.
        samples: Heads that are drawn for each task, whose probabilities are averaged.
    """

    width: Width = 128
    layers: Annotated[int, Gt(0), Lt(17)] = 2
    samples: Annotated[int, Ge(1), Le(1 << 12)] = 10


class SampledHeads(NamedTuple):
    """K heads [K, C, D + 1], the last number of a row its bias, and the encoder of the queries."""

    heads: Tensor
    encoder: Adapted


class VERSA(MetricBased[SampledHeads]):
    """p(class | x) = mean over samples of softmax(W f(x) / √D + b), where row c of (W, b) ~ q(· | mean of f(support)).

    The loss is -log of that mean (eq. 4). A row is inferred from the support of its class alone, so that a head has any
    number of ways. The published logits are not divided by √D, which keeps them small before anything is learned.
    """

    Config: ClassVar[type[VERSAConfig]] = VERSAConfig
    about: ClassVar[About] = About("neural process", "Gordon et al. 2019, arXiv 1805.09921")

    def __init__(self, config: VERSAConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.features = model.net.features
        row = self.features + 1
        self.inference = Perceptron("inference", (self.features,), config.width, config.layers, 2 * row)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"inference": self.inference.init(rng)}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        shape = (self.config.samples, task.ways, self.features + 1)
        return {"heads": torch.from_numpy(rng.normal(size=shape))}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> SampledHeads:
        z_ND, encoder = self.embed(theta, support, context)
        member_NC = one_hot(support.y, context.ways, z_ND)
        means_CD = (member_NC.T @ z_ND) / member_NC.sum(0).unsqueeze(1)
        centre, raw = self.inference(theta["inference"], means_CD).chunk(2, -1)
        return SampledHeads(centre + torch.exp(raw / 2) * context.noise["heads"], encoder)

    def compare(self, adapted: SampledHeads, z_QD: Tensor) -> tuple[Tensor, Params]:
        weight, bias = adapted.heads[..., :-1], adapted.heads[..., -1]
        logits_KQC = z_QD @ weight.transpose(1, 2) / self.features**0.5 + bias.unsqueeze(1)
        return log_mean_exp(torch.log_softmax(logits_KQC, -1)), {}
