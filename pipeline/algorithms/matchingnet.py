"""MatchingNet: a query takes the labels of the support examples it resembles, by attention over their embeddings.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra: Matching Networks for One Shot Learning, arXiv 1606.04080.

Shapes: N support, Q query, C ways, D embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Divisor, InnerSteps
from pipeline.core.effects import OnlyWith
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Params, Phase, Task
from pipeline.families.metric import MetricBased, one_hot
from pipeline.nets.full_context import FullContext

EPSILON = 1e-12
"""Under the root of a squared length, so that an embedding of zeros has a direction's gradient."""


@dataclass(frozen=True)
class MatchingNetConfig:
    """The attention over the support set.

    Attributes:
        full_context: Embed each example in the light of the whole support set.
        reads: How often a query looks at the support set under ``full_context``.
        temperature: What a cosine is divided by: 1, the bare cosine, is published; a smaller one is sharper.
    """

    full_context: bool = False
    reads: Annotated[InnerSteps, OnlyWith("full_context", True)] = 3
    temperature: Divisor = 1.0


class Matched(NamedTuple):
    """Support embeddings [N, D], whose class each is [N, C], the weights that read them, and the encoder."""

    keys: Tensor
    one_hot: Tensor
    context: Params
    encoder: Adapted


class MatchingNet(MetricBased[Matched]):
    """p(class | x) = sum of a(x, x_i) over the support examples of the class, a = softmax of cos(f(x), g(x_i)).

    Its outputs are log-probabilities: their softmax is p, and cross entropy the negative log of the *summed* attention.
    The LSTMs of ``full_context`` are a group of their own, so that the encoder is the same network with and without.
    """

    Config: ClassVar[type[MatchingNetConfig]] = MatchingNetConfig
    about: ClassVar[About] = About("metric", "Vinyals et al. 2016, arXiv 1606.04080")

    def __init__(self, config: MatchingNetConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.context = FullContext(model.net.features, config.reads) if config.full_context else None

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {"context": self.context.init(rng)} if self.context else {}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """``order`` [N]: in which the support set is read under ``full_context``; sources sort it by class."""
        return {"order": torch.from_numpy(rng.permutation(len(task.support.y)))} if self.context else {}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Matched:
        z_ND, encoder = self.embed(theta, support, context)
        member_NC = one_hot(support.y, context.ways, z_ND)
        if self.context is None:
            return Matched(z_ND, member_NC, {}, encoder)
        weights = theta["context"]
        return Matched(self.context.support(weights, z_ND, context.noise["order"]), member_NC, weights, encoder)

    def compare(self, adapted: Matched, z_QD: Tensor) -> tuple[Tensor, Params]:
        keys_ND, member_NC, weights, _ = adapted
        f_QD = self.context.query(weights, z_QD, keys_ND) if self.context else z_QD
        log_a_QN = torch.log_softmax(_unit(f_QD) @ _unit(keys_ND).T / self.config.temperature, -1)
        # Summed as logarithms: a sharp attention would come out as log 0.
        log_a_QNC = torch.where(member_NC > 0, log_a_QN.unsqueeze(-1), -math.inf)
        return torch.logsumexp(log_a_QNC, 1), {}


def _unit(z: Tensor) -> Tensor:
    return z * torch.rsqrt(z.square().sum(-1, keepdim=True) + EPSILON)
