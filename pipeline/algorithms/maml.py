"""MAML: an initialisation from which a few gradient steps solve a task.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Gt
from torch import Tensor

from pipeline.core.algorithm import Differentiable
from pipeline.core.failures import ConfigError
from pipeline.core.inner import SGD, unroll
from pipeline.core.types import Batch, Context, Kind, MayChange, MetaParams, Params, Score
from pipeline.nets.losses import Loss
from pipeline.nets.model import Adapted, Model


@dataclass(frozen=True)
class MAMLConfig:
    """``inner_lr`` is per *mean* support loss; ``eval_inner_steps`` count at evaluation and serving."""

    inner_lr: Annotated[float, Gt(0)] = 0.01
    inner_steps: Annotated[int, Ge(1)] = 1
    eval_inner_steps: Annotated[int, Ge(1), MayChange()] = 10
    first_order: bool = False


class MAML(Differentiable[Batch, Adapted]):
    """phi_0 = theta; phi_{j+1} = phi_j - alpha ∇L_support(phi_j); the outer loop descends L_query(phi_k) (eq. 1, 2).

    ``first_order`` drops the second derivatives (FOMAML, §5.2).

    Raises:
        ConfigError: ``normalisation: running``, with which the inner loop diverges.
    """

    Config: ClassVar[type[MAMLConfig]] = MAMLConfig
    kinds: ClassVar[frozenset[Kind]] = frozenset({"classification", "regression"})
    head: ClassVar[bool] = True

    def __init__(self, config: MAMLConfig, model: Model, loss: Loss) -> None:
        if model.mode == "running":
            raise ConfigError("normalisation: 'running' makes maml diverge; use support, one_query or transductive")
        self.config, self.model, self.loss = config, model, loss

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": self.model.init(rng)}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Adapted:
        return self.model.adapted(self._path(theta, support, context)[-1], support.x)

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Adapted, ...]:
        return tuple(self.model.adapted(phi, support.x) for phi in self._path(theta, support, context))

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.model.predict(adapted, x)

    def score(self, adapted: Adapted, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    def _path(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Params, ...]:
        def support_loss(phi: Params, j: int) -> Tensor:
            return self.loss(self.model.fit(phi, support.x)[0], support.y).loss  # type: ignore[return-value]

        steps = self.config.inner_steps if context.phase == "train" else self.config.eval_inner_steps
        return unroll(
            support_loss, theta["model"], steps, SGD(self.config.inner_lr), first_order=self.config.first_order
        )
