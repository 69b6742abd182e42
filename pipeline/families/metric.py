"""What the methods share that compare embeddings: all but the comparison itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.losses import LossFunction
from pipeline.core.types import Batch, Context, Kind, MetaParams, Params, Score
from pipeline.nets.model import Adapted, NormalisedNet
from pipeline.nets.running import fold_moments


class Encoded(Protocol):
    """What a support set becomes; beside what the method keeps of it, the network that embeds the queries."""

    @property
    def encoder(self) -> Adapted: ...


E = TypeVar("E", bound=Encoded)


class MetricBased(Differentiable[Batch, E]):
    """Embeds a support set and judges queries by ``compare``. Under ``running`` it gathers moments while it trains."""

    sends: ClassVar[str] = "the gradient of theta; moments of each layer under `running`"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification"})
    head: ClassVar[bool] = False

    def __init__(self, config: Any, model: NormalisedNet, loss: LossFunction) -> None:
        self.config, self.model, self.loss = config, model, loss
        self.state_groups = frozenset({"running"} if model.mode == "running" else ())

    @abstractmethod
    def compare(self, adapted: E, z_QD: Tensor) -> tuple[Tensor, Params]:
        """Outputs [Q, ways] for embedded queries, and the moments that a head of its own saw in them."""

    def init(self, rng: np.random.Generator) -> MetaParams:
        params = self.model.init(rng)
        return {"model": params} | ({"running": self.model.running(params)} if self.state_groups else {})

    def running(self, theta: MetaParams, context: Context) -> Params:
        """The moments to normalise with: none in training, where each batch is normalised by its own."""
        return theta["running"] if self.state_groups and context.phase != "train" else {}

    def embed(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Tensor, Adapted]:
        """The support set's embeddings [N, D], and the network that is to embed its queries."""
        phi, running = theta["model"], self.running(theta, context)
        return self.model.predict(Adapted(phi, running), support.x), self.model.adapted(phi, support.x, running)

    def predict(self, adapted: E, x: Tensor) -> Tensor:
        return self._outputs(adapted, x)[0]

    def score(self, adapted: E, query: Batch, context: Context) -> Score:
        outputs, moments = self._outputs(adapted, query.x)
        score = self.loss(outputs, query.y)
        if not (self.state_groups and context.phase == "train"):
            return score
        return score._replace(records={name: moment.detach() for name, moment in moments.items()})

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        return fold_moments(theta, records)

    def _outputs(self, adapted: E, x: Tensor) -> tuple[Tensor, Params]:
        z_QD, moments = self.model.observe(adapted.encoder, x)
        outputs, of_the_head = self.compare(adapted, z_QD)
        return outputs, moments | of_the_head


def one_hot(y_N: Tensor, ways: int, like: Tensor) -> Tensor:
    """[N, C] of ``like``'s dtype: 1 where an example is of a class."""
    return torch.eye(ways, dtype=like.dtype, device=like.device)[y_N]
