"""La-MAML: a learner of a stream that looks ahead, and learns a rate for each weight while it goes on.

Gupta, Yadav, Paull: La-MAML: Look-ahead Meta Learning for Continual Learning, arXiv 2007.13904, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pipeline.core.batches import take
from pipeline.core.bounds import Rate
from pipeline.core.inner import norm
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.gradient import BATCHES
from pipeline.families.replay import ReplayConfig, Replayed

EPSILON = 1e-6


@dataclass(frozen=True)
class LaMAMLConfig(ReplayConfig):
    """The rates of a stream's steps.

    Attributes:
        inner_lr: Where the rate of each weight starts.
        rate_lr: The rate at which these rates are learned.
        clip: What no number of an inner gradient exceeds, and no norm of the two outer ones. The authors clip the outer
            norms alone, at 2.
    """

    inner_lr: Annotated[Rate, MayChange()] = 0.1
    rate_lr: Annotated[Rate, MayChange()] = 0.1
    clip: Annotated[Rate, MayChange()] = 2.0


class LaMAML(Replayed):
    """A look ahead takes a step on each new example: fast ← fast - alpha ∘ ∇l(fast), from phi. Then, with the loss L of
    the new and the replayed examples after it,

        alpha ← alpha - eta ∂L/∂alpha,   phi ← phi - max(0, alpha) ∘ ∂L/∂phi    (the new alpha).

    Inner gradients are constants in both derivatives, as in the authors' code (its first order). That code differs in
    two points: it looks ahead with max(0, alpha), and its L is the mean over all steps of the look ahead. Ours is the
    last step's.
    """

    Config: ClassVar[type[LaMAMLConfig]] = LaMAMLConfig
    about: ClassVar[About] = About("optimisation", "Gupta, Yadav, Paull 2020, arXiv 2007.13904")

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        def ahead(phi: Params, alpha: Params, j: int) -> Tensor:
            return self.look_ahead(phi, alpha, support, context, j)

        phi = theta["model"]
        alpha = {name: torch.full_like(leaf, self.config.inner_lr) for name, leaf in phi.items()}
        yield phi
        for j in range(self.steps(context)):
            of_phi, of_alpha = torch.func.grad(ahead, argnums=(0, 1))(phi, alpha, j)
            to_alpha, to_phi = self._within(of_alpha), self._within(of_phi)
            alpha = {name: rate - self.config.rate_lr * to_alpha[name] for name, rate in alpha.items()}
            phi = {name: leaf - torch.relu(alpha[name]) * to_phi[name] for name, leaf in phi.items()}
            yield phi

    def _within(self, gradient: Params) -> Params:
        """The gradient, shortened where its norm is above ``clip``."""
        scale = (self.config.clip / (norm(gradient) + EPSILON)).clamp(max=1)
        return {name: scale * leaf for name, leaf in gradient.items()}

    def look_ahead(self, phi: Params, alpha: Params, support: Batch, context: Context, j: int) -> Tensor:
        """The loss of the examples of step j, after a step on each of those that are new."""
        rows, masks = context.noise[BATCHES][j], self.model.inner_masks(context.noise, j)

        def loss(at: Params, seen: Tensor) -> Tensor:
            data = take(support, seen)
            return self.loss(self.model.outputs(at | masks, data), data.y).loss

        fast = phi
        for new in rows[: self.config.inner_batch].split(1):
            slope = torch.func.grad(loss)({name: leaf.detach() for name, leaf in fast.items()}, new)
            step = {name: leaf.detach().clamp(-self.config.clip, self.config.clip) for name, leaf in slope.items()}
            fast = {name: leaf - alpha[name] * step[name] for name, leaf in fast.items()}
        return loss(fast, rows)
