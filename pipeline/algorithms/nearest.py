"""1-NN on pixels: a query gets the class of the nearest support example, without an embedding.

Fix and Hodges (1951); without a network, it says how much of a task is there to see without learning anything.

Shapes: N support, Q query, C ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Score, Sets


@dataclass(frozen=True)
class NearestConfig:
    """Has no fields: the network of a recipe is not used."""


class Neighbours(NamedTuple):
    """The support set [N, …], whose class each is [N, C], and by how much distances count, as a logarithm."""

    x: Tensor
    members: Tensor
    log_sharpness: Tensor


class Nearest(Differentiable[Batch, Neighbours]):
    """Logits are minus the mean squared difference to a class's nearest example, times a sharpness.

    The sharpness alone is learned. It gives a loss and never changes an answer.

    Raises:
        ConfigError: a normalisation other than ``none``: there is no network to normalise.
    """

    Config: ClassVar[type[NearestConfig]] = NearestConfig
    about: ClassVar[About] = About("baseline", "Fix, Hodges 1951")
    needs: ClassVar[Needs] = Needs(data=(Batch, Sets), targets=("slots",), head=False)

    def __init__(self, config: NearestConfig, model: Network, loss: LossFunction) -> None:
        if model.mode != "none":
            raise ConfigError(f"normalisation: {model.mode!r}, but Nearest has no network to normalise; use none")
        super().__init__(config, model, loss)

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": {"log_sharpness": torch.zeros(())}}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Neighbours:
        members_NC = torch.eye(context.ways, dtype=torch.bool, device=support.y.device)[support.y]
        return Neighbours(support.x, members_NC, theta["model"]["log_sharpness"])

    def predict(self, adapted: Neighbours, x: Tensor) -> Tensor:
        x_QD, support_ND = x.flatten(1), adapted.x.flatten(1)
        distances_QN = (x_QD.unsqueeze(1) - support_ND.unsqueeze(0)).square().mean(2)
        among_QNC = torch.where(adapted.members, distances_QN.unsqueeze(2), torch.inf)
        return -adapted.log_sharpness.exp() * among_QNC.amin(1)

    def score(self, adapted: Neighbours, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)
