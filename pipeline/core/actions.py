"""The actions of an agent: how a policy's outputs become actions, and how probable an action was.

Random numbers come from outside, so that an episode is a pure function of theta and the ticket.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


class Actions(NamedTuple):
    """The actions that a world takes.

    Args:
        size: how many there are to choose from, or how many numbers one consists of.
        discrete: whether one of ``size`` is chosen.
    """

    size: int
    discrete: bool


class Distribution(Protocol):
    """Actions given a policy's outputs [..., width]."""

    size: int
    width: int

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        """The random numbers of ``shape`` actions."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The actions that these random numbers choose; no gradient passes."""
        ...

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """log π(action) [...]."""
        ...

    def entropy(self, outputs: Tensor) -> Tensor:
        """In nats [...]."""
        ...

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old ‖ new) in nats [...], of the distributions of two outputs."""
        ...

    def encode(self, actions: Tensor) -> Tensor:
        """Actions as a network reads them, [..., size]: one-hot, or the numbers themselves."""
        ...


class Categorical:
    """One of ``size`` actions; outputs are logits. An action is the inverse of the cumulated probabilities at u."""

    def __init__(self, size: int) -> None:
        self.size = self.width = size

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rng.uniform(size=shape))

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        below = torch.softmax(outputs.detach(), -1).cumsum(-1)[..., :-1]
        return (noise.unsqueeze(-1) >= below).sum(-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        return torch.log_softmax(outputs, -1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        log_p = torch.log_softmax(outputs, -1)
        return -(log_p.exp() * log_p).sum(-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        log_old = torch.log_softmax(old, -1)
        return (log_old.exp() * (log_old - torch.log_softmax(new, -1))).sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        # Under vmap about twice as fast as torch's one_hot.
        return (actions.unsqueeze(-1) == torch.arange(self.size, device=actions.device)).long()


class Gaussian:
    """``size`` independent numbers; outputs are their means and the logarithms of their deviations."""

    def __init__(self, size: int) -> None:
        self.size, self.width = size, 2 * size

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rng.normal(size=(*shape, self.size)))

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = outputs.detach().chunk(2, -1)
        return mean + log_std.exp() * noise

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return -(((actions - mean) / log_std.exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self, outputs: Tensor) -> Tensor:
        return (outputs.chunk(2, -1)[1] + (1 + math.log(2 * math.pi)) / 2).sum(-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        (mean, log_std), (other, log_other) = old.chunk(2, -1), new.chunk(2, -1)
        spread = (2 * log_std).exp() + (mean - other).square()
        return (log_other - log_std + spread / (2 * (2 * log_other).exp()) - 0.5).sum(-1)

    def encode(self, actions: Tensor) -> Tensor:
        return actions


def distribution_of(actions: Actions) -> Distribution:
    """The distribution of a policy over these actions."""
    return Categorical(actions.size) if actions.discrete else Gaussian(actions.size)
