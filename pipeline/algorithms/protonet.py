"""ProtoNet: a class is the mean of its support embeddings, a query belongs to the nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, arXiv 1703.05175.

Shapes: N support, Q query, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.types import Batch, Context, Family, Kind, MetaParams, Params, Score
from pipeline.nets.losses import Loss
from pipeline.nets.model import Adapted, Model

MOMENTUM = 0.1
"""Share of the newest moments in the running ones, per outer step."""


@dataclass(frozen=True)
class ProtoNetConfig:
    """ProtoNet has no fields of its own: its network and its tasks say everything."""


class Prototypes(NamedTuple):
    """Prototypes [C, D] and the encoder that made them."""

    means: Tensor
    encoder: Adapted


class ProtoNet(Differentiable[Batch, Prototypes]):
    """p(class | x) = softmax over classes of -‖f(x) - c‖², c = mean f(support of the class) (eq. 1, 2)."""

    Config: ClassVar[type[ProtoNetConfig]] = ProtoNetConfig
    family: ClassVar[Family] = "metric"
    paper: ClassVar[str] = "Snell, Swersky, Zemel 2017, arXiv 1703.05175"
    sends: ClassVar[str] = "the gradient of theta; moments of each layer under `running`"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    head: ClassVar[bool] = False

    def __init__(self, config: ProtoNetConfig, model: Model, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.state_groups = frozenset({"running"} if model.mode == "running" else ())

    def init(self, rng: np.random.Generator) -> MetaParams:
        params = self.model.init(rng)
        return {"model": params} | ({"running": self.model.running(params)} if self.state_groups else {})

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Prototypes:
        phi = theta["model"]
        # While training, running moments are only gathered: each batch is normalised by its own.
        running = theta["running"] if self.state_groups and context.phase != "train" else {}
        z_ND = self.model.predict(Adapted(phi, running), support.x)
        member_NC = torch.eye(context.ways, dtype=z_ND.dtype, device=z_ND.device)[support.y]
        means_CD = (member_NC.T @ z_ND) / member_NC.sum(0).unsqueeze(1)
        return Prototypes(means_CD, self.model.adapted(phi, support.x, running))

    def predict(self, adapted: Prototypes, x: Tensor) -> Tensor:
        return _logits(self.model.predict(adapted.encoder, x), adapted.means)

    def score(self, adapted: Prototypes, query: Batch, context: Context) -> Score:
        if not (self.state_groups and context.phase == "train"):
            return self.loss(self.predict(adapted, query.x), query.y)
        z_QD, moments = self.model.fit(adapted.encoder.phi, query.x)
        score = self.loss(_logits(z_QD, adapted.means), query.y)
        return score._replace(records={name: moment.detach() for name, moment in moments.items()})

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        """Running moments move towards the mean of the used tasks' query moments."""
        if not records:
            return {}
        return {
            "running": {
                name: (1 - MOMENTUM) * old + MOMENTUM * torch.stack([record[name] for record in records]).mean(0)
                for name, old in theta["running"].items()
            }
        }


def _logits(z_QD: Tensor, prototypes_CD: Tensor) -> Tensor:
    """-‖z - c‖² as written, not expanded: the expansion loses digits where z and c are close."""
    return -(z_QD.unsqueeze(1) - prototypes_CD.unsqueeze(0)).square().sum(-1)
