"""ProtoNet's rule with class means that are drawn towards their common mean, by a share that the outer loop learns.

A worked example of an algorithm in one file. To register it, put the file into ``pipeline/algorithms`` and into its
``__init__.py``, beside the import, the line

    "shrunken_means": ShrunkenMeans,

Recipes then know ``algorithm: {name: shrunken_means}``, and the contract tests hold it. N support, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Score


@dataclass(frozen=True)
class ShrunkenMeansConfig:  # the fields that a recipe may set, with their limits and defaults
    first_share: Annotated[float, Gt(0), Lt(1)] = 0.1


class Means(NamedTuple):  # what adaptation yields: a value, never kept on self
    means: Tensor
    encoder: Adapted


class ShrunkenMeans(Differentiable[Batch, Means]):  # Differentiable: the meta-gradient is that of the query score
    Config: ClassVar[type[ShrunkenMeansConfig]] = ShrunkenMeansConfig
    about: ClassVar[About] = About("metric", "none: the example of this page")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots",), head=False)

    def __init__(self, config: ShrunkenMeansConfig, model: Network, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError(
                "normalisation: 'running' is a state group, which ShrunkenMeans does not keep; use support"
            )
        super().__init__(config, model, loss)

    def init(self, rng: np.random.Generator) -> MetaParams:  # two groups: each may have an outer optimizer of its own
        logit = torch.logit(torch.tensor(self.config.first_share, dtype=torch.float64))
        return {"model": self.model.init(rng), "shrinkage": {"logit": logit}}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Means:
        encoder = self.model.adapted(theta["model"], support.x)
        z_ND = self.model.forward_own_statistics(theta["model"], support.x)[0]
        member_NC = torch.eye(context.ways, dtype=z_ND.dtype, device=z_ND.device)[support.y]
        means_CD = (member_NC.T @ z_ND) / member_NC.sum(0).unsqueeze(1)
        share = torch.sigmoid(theta["shrinkage"]["logit"])
        return Means((1 - share) * means_CD + share * means_CD.mean(0), encoder)

    def predict(self, adapted: Means, x: Tensor) -> Tensor:
        z_QD = self.model.predict(adapted.encoder, x)
        return -(z_QD.unsqueeze(1) - adapted.means.unsqueeze(0)).square().sum(2)

    def score(self, adapted: Means, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)
