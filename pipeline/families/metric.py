"""Metric-based methods embed a support set and compare queries with it. Each brings its comparison."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Batch, Context, MetaParams, Needs, Params, Phase, Score, Task
from pipeline.nets.running import fold_moments
from pipeline.nets.search_space import ARCH, cell_of, first_groups, is_open, shares


class Encoded(Protocol):
    """A method's representation of a support set, with the network that embeds the queries."""

    @property
    def encoder(self) -> Adapted: ...


E = TypeVar("E", bound=Encoded)


class MetricBased(Differentiable[Batch, E]):
    """Embeds a support set and scores queries by ``compare``. Under ``running`` it gathers moments while it trains.

    On an open search space the logits of ops are the group ``arch``, which descends the query loss like the weights.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots",), head=False)

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.state_groups = frozenset({"running"} if model.mode == "running" else ())

    @abstractmethod
    def compare(self, adapted: E, z_QD: Tensor) -> tuple[Tensor, Params]:
        """Outputs [Q, ways] for embedded queries, and the moments that a head of its own saw in them."""

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        """The groups of theta beside ``model``. Default: none."""
        return {}

    def extra_moments(self, theta: MetaParams) -> Params:
        """The first running moments of networks other than ``model``. Default: none."""
        return {}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The random tensors of a task beside the network's own. Default: none."""
        return {}

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        theta = first_groups(self.model.net, rng)
        theta |= self.extra_groups(rng, theta.get("model", {}))
        if self.state_groups:
            theta["running"] = self.model.running(self.weights(theta)) | self.extra_moments(theta)
        return theta

    @final
    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        rows = len(task.support.x) + len(task.query.x)
        return self.extra_noise(rng, task, phase) | self.model.draw(rng, rows, phase)

    def weights(self, theta: MetaParams) -> Params:
        """What a forward pass reads of theta: on an open search space the shares of ops beside the weights."""
        return theta.get("model", {}) | shares(theta.get(ARCH, {}))

    def running(self, theta: MetaParams, context: Context) -> Params:
        """The moments to normalise with: none in training, where each batch is normalised by its own."""
        return theta["running"] if self.state_groups and context.phase != "train" else {}

    def embed(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Tensor, Adapted]:
        """The support set's embeddings [N, D], and the network that is to embed its queries."""
        phi, running = self.weights(theta) | self.model.masks(context.noise), self.running(theta, context)
        return self.model.predict(Adapted(phi, running), support.x), self.model.adapted(phi, support.x, running)

    def predict(self, adapted: E, x: Tensor) -> Tensor:
        return self._outputs(adapted, x)[0]

    def score(self, adapted: E, query: Batch, context: Context) -> Score:
        outputs, moments = self._outputs(adapted, query.x)
        score = self.loss(outputs, query.y)
        if context.phase != "train" and is_open(self.model.net):
            score = score._replace(metrics=score.metrics | self.model.net.choices(adapted.encoder.phi))
        if not (self.state_groups and context.phase == "train"):
            return score
        return score._replace(records={name: moment.detach() for name, moment in moments.items()})

    def cell(self, adapted: E) -> tuple[str, ...]:
        """The op on each edge of a search space's cell."""
        return cell_of(self.model.net, adapted.encoder.phi)

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        return fold_moments(theta, records)

    def _outputs(self, adapted: E, x: Tensor) -> tuple[Tensor, Params]:
        z_QD, moments = self.model.observe(adapted.encoder, x)
        outputs, of_the_head = self.compare(adapted, z_QD)
        return outputs, moments | of_the_head


def one_hot(y_N: Tensor, ways: int, like: Tensor) -> Tensor:
    """[N, C] of ``like``'s dtype: 1 where an example is of a class."""
    return torch.eye(ways, dtype=like.dtype, device=like.device)[y_N]


def class_means(z_ND: Tensor, y_N: Tensor, ways: int) -> Tensor:
    """The mean embedding [C, D] of each class."""
    member_NC = one_hot(y_N, ways, z_ND)
    return (member_NC.T @ z_ND) / member_NC.sum(0).unsqueeze(1)


def squared_distances(z_QD: Tensor, references_RD: Tensor) -> Tensor:
    """‖z - r‖² [Q, R] as written, not expanded: the expansion loses digits where z and r are close."""
    return (z_QD.unsqueeze(1) - references_RD.unsqueeze(0)).square().sum(-1)
