"""MbPA: a memory of embedded examples; for each query, the output network is adapted to its neighbours, then restored.

Sprechmann et al.: Memory-based Parameter Adaptation, arXiv 1802.10542. A memory's six steps, in an order of their own:
the support set is encoded and stored; then for each query, neighbours are retrieved, a loss weighted by their nearness
integrates them, the output network is updated by it, answers, and the update is forgotten.

Here the memory holds one task's support set and begins empty with each task: slots of classes, and the values of a
regression, mean nothing in another. For the same reason the networks are trained *through* the local adaptation, second
derivatives included; the paper trains them without it, and adapts at test alone.

Shapes: N support, Q query, K neighbours, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.bounds import Count, Divisor, Rate
from pipeline.core.effects import NotWith
from pipeline.core.failures import ConfigError
from pipeline.core.inner import SGD, unroll
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network, head_of
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Score

NO_STEPS = NotWith(local_steps=(0,), eval_local_steps=(0,))
"""Without a local step no neighbour is looked at. The first step starts at the head that ``pull`` holds it to."""


@dataclass(frozen=True)
class MBPAConfig:
    """The local adaptation for each query.

    The paper's alpha_M is ``local_lr``, its beta ``local_lr`` · ``pull``.

    Attributes:
        neighbours: Support examples that a query adapts to.
        local_lr: Rate of a local step, on the neighbours' weighted *mean* loss.
        local_steps: Local steps in training.
        eval_local_steps: Local steps at evaluation and in serving.
        pull: How strongly the output network is held near where it was.
        epsilon: Bounds the weight of a neighbour that is very near.
    """

    neighbours: Annotated[Count, NO_STEPS] = 10
    local_lr: Annotated[Rate, NO_STEPS] = 0.1
    local_steps: Annotated[int, Ge(0), Le(10_000)] = 5
    eval_local_steps: Annotated[int, Ge(0), Le(10_000), MayChange()] = 5
    pull: Annotated[float, Ge(0), Le(1e6), NotWith(local_steps=(0, 1), eval_local_steps=(0, 1))] = 0.1
    epsilon: Annotated[Divisor, NO_STEPS] = 1e-3


class Episodes(NamedTuple):
    """The memory: keys [N, D] and labels [N, …]; the networks, and how many local steps a query gets."""

    keys: Tensor
    labels: Tensor
    networks: Adapted
    steps: int


class MBPA(Differentiable[Batch, Episodes]):
    """theta_x <- theta_x - alpha_M ∇Σ w_k L(g(h_k; theta_x), v_k) - beta (theta_x - theta), w_k ~ 1 / (ε + ‖h_k - q‖²).

    Raises:
        ConfigError: ``normalisation: running``: what is stored would not be what a query is compared with.
    """

    Config: ClassVar[type[MBPAConfig]] = MBPAConfig
    about: ClassVar[About] = About("memory", "Sprechmann et al. 2018, arXiv 1802.10542")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=True)

    def __init__(self, config: MBPAConfig, model: Network, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError("normalisation: MBPA gathers no 'running' moments; use support, one_query or layer")
        super().__init__(config, model, loss)

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": self.model.init(rng)}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Episodes:
        phi = theta["model"]
        steps = self.config.local_steps if context.phase == "train" else self.config.eval_local_steps
        return Episodes(self.model.embed(phi, support.x), support.y, self.model.adapted(phi, support.x), steps)

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Episodes]:
        episodes = self.adapt(theta, support, context)
        for steps in range(episodes.steps + 1):
            yield episodes._replace(steps=steps)

    def predict(self, adapted: Episodes, x: Tensor) -> Tensor:
        # Each query has an output network of its own, so no row sees another.
        return torch.func.vmap(lambda h_D: self._answer(adapted, h_D))(self.model.features(adapted.networks, x))

    def score(self, adapted: Episodes, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    def _answer(self, episodes: Episodes, h_D: Tensor) -> Tensor:
        """Retrieve, integrate, update, answer; the update is forgotten with the return."""
        at_K, weights_K = neighbours(episodes.keys, h_D, self.config.neighbours, self.config.epsilon)
        head = head_of(episodes.networks.phi)
        loss = Partial(self._local_loss, (head, episodes.keys[at_K], episodes.labels[at_K], weights_K))
        moved = unroll(loss, head, episodes.steps, SGD(self.config.local_lr), first_order=False)[-1]
        return self.model.net.read_out(moved, h_D)

    def _local_loss(
        self, head: Params, keys_KD: Tensor, labels_K: Tensor, weights_K: Tensor, moved: Params, j: int
    ) -> Tensor:
        def of_one(output: Tensor, label: Tensor) -> Tensor:
            return self.loss(output.unsqueeze(0), label.unsqueeze(0)).loss

        losses_K = torch.func.vmap(of_one)(self.model.net.read_out(moved, keys_KD), labels_K)
        return (weights_K * losses_K).sum() + self.config.pull / 2 * _squared_distance(moved, head)


def neighbours(keys_ND: Tensor, h_D: Tensor, count: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Rows [K] of the ``count`` nearest keys (all, if there are fewer), nearest first, and weights that sum to 1."""
    squares_N = (keys_ND - h_D).square().sum(-1)
    nearest = squares_N.topk(min(count, len(squares_N)), largest=False)
    weights_K = 1 / (epsilon + nearest.values)
    return nearest.indices, weights_K / weights_K.sum()


def _squared_distance(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum()
