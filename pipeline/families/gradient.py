"""What the methods share that adapt a network's weights by inner steps: all but the steps themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.inner import InnerLoss
from pipeline.core.losses import LossFunction
from pipeline.core.types import Batch, Context, Kind, MetaParams, Params, Score
from pipeline.nets.model import Adapted, NormalisedNet


class GradientBased(Algorithm[Batch, Adapted]):
    """Adapts along ``inner_trajectory``. ``config`` has ``inner_steps`` for training, ``eval_inner_steps`` otherwise.

    Raises:
        ConfigError: ``normalisation: running``, with which an inner loop diverges.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})
    head: ClassVar[bool] = True

    def __init__(self, config: Any, model: NormalisedNet, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError(
                f"normalisation: 'running' makes {type(self).__name__} diverge; use support, one_query or transductive"
            )
        self.config, self.model, self.loss = config, model, loss

    @abstractmethod
    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterable[Params]:
        """The network's weights before adaptation and after each inner step."""

    def last(self, theta: MetaParams, support: Batch, context: Context) -> Params:
        """The network's weights after the last inner step. Those before it are not kept here."""
        return deque(self.inner_trajectory(theta, support, context), maxlen=1)[0]

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": self.model.init(rng)}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Adapted:
        return self.model.adapted(self.last(theta, support, context), support.x)

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Adapted, ...]:
        return tuple(self.model.adapted(phi, support.x) for phi in self.inner_trajectory(theta, support, context))

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.model.predict(adapted, x)

    def score(self, adapted: Adapted, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    def steps(self, context: Context) -> int:
        """How many inner steps there are."""
        steps: int = self.config.inner_steps if context.phase == "train" else self.config.eval_inner_steps
        return steps

    def support_loss(self, support: Batch) -> InnerLoss:
        """The mean loss on the whole support set, at each inner step."""

        def loss(phi: Params, j: int) -> Tensor:
            return self.loss(self.model.forward_own_statistics(phi, support.x)[0], support.y).loss  # type: ignore[return-value]

        return loss
