"""Methods that adapt a network's weights by inner steps. Each brings its inner trajectory and its meta-gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.inner import InnerLoss
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Batch, Context, MetaParams, Needs, Params, Phase, Score, Task
from pipeline.families.meta_gradient import Backprop, MetaGradient


class GradientBased(Algorithm[Batch, Adapted]):
    """Adapts along ``inner_trajectory``. ``config`` has ``inner_steps`` for training, ``eval_inner_steps`` otherwise.

    Raises:
        ConfigError: ``normalisation: running``, with which an inner loop diverges.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=True)
    meta_gradient: MetaGradient = Backprop()
    """How theta's gradient is made of one task."""

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError(
                f"normalisation: 'running' makes {type(self).__name__} diverge; use support, one_query or transductive"
            )
        super().__init__(config, model, loss)
        self.differentiable = self.meta_gradient.differentiable

    @abstractmethod
    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterable[Params]:
        """The network's weights before adaptation and after each inner step."""

    def initial_model(self, rng: np.random.Generator) -> Params:
        """The first leaves of the group ``model``; none of them where there is no such group."""
        return self.model.init(rng)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        """The groups of theta beside ``model``. Default: none."""
        return {}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The random tensors of a task beside the network's own. Default: none."""
        return {}

    def last(self, theta: MetaParams, support: Batch, context: Context) -> Params:
        """The network's weights after the last inner step. Those before it are not kept here."""
        return deque(self.inner_trajectory(theta, support, context), maxlen=1)[0]

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        model = self.initial_model(rng)
        return ({"model": model} if model else {}) | self.extra_groups(rng, model)

    @final
    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        return self.extra_noise(rng, task, phase) | self.model.draw(rng, rows_of(task), phase)

    def adapted(self, phi: Params, support: Batch, context: Context) -> Adapted:
        """Weights of the inner trajectory, ready to predict after this support set."""
        return self.model.adapted(phi | self.model.masks(context.noise), support.x)

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Adapted:
        return self.adapted(self.last(theta, support, context), support, context)

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Adapted, ...]:
        return tuple(self.adapted(phi, support, context) for phi in self.inner_trajectory(theta, support, context))

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.model.predict(adapted, x)

    def score(self, adapted: Adapted, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    @final
    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        return self.meta_gradient(self, theta, task, context)

    def steps(self, context: Context) -> int:
        """How many inner steps there are."""
        steps: int = self.config.inner_steps if context.phase == "train" else self.config.eval_inner_steps
        return steps

    def support_loss(self, support: Batch, context: Context) -> InnerLoss:
        """The mean loss on the whole support set, at each inner step."""
        masks = self.model.masks(context.noise)

        def loss(phi: Params, j: int) -> Tensor:
            return self.loss(self.model.forward_own_statistics(phi | masks, support.x)[0], support.y).loss

        return loss


def rows_of(task: Task[Batch]) -> int:
    """How many examples a task has: no forward pass of it sees more."""
    return len(task.support.x) + len(task.query.x)
