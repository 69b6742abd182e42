"""How much better an action was than expected: what a policy gradient weighs actions by.

Shapes: N episodes, H steps of each, F features. ``alive`` [N, H] is 1 for a step that was taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.core.types import Episodes

RIDGE = 1e-5
"""How the linear baseline's weights are kept small: without it features that are alike have no solution."""
SMALL = 1e-8


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """The discounted sum of an episode's rewards from each step on [N, H]."""
    steps = torch.arange(rewards.shape[-1], device=rewards.device)
    later = steps[:, None] - steps
    factors = torch.where(later >= 0, discount ** later.clamp(min=0).to(rewards.dtype), 0.0)
    return rewards @ factors


def linear_baseline(episodes: Episodes, returns: Tensor) -> Tensor:
    """The returns [N, H] that a linear function of observation and time expects, fitted to these episodes.

    Duan et al. (arXiv 1604.06778, appendix): features x, x², t, t², t³ and 1, with t in hundreds of steps. The
    equations are solved in float64, since the features are nearly dependent.
    """
    x = episodes.observations.flatten(2).double()
    rows, steps, _ = x.shape
    t = (torch.arange(steps, device=x.device, dtype=x.dtype) / 100).expand(rows, steps).unsqueeze(-1)
    features = torch.cat([x, x * x, t, t**2, t**3, torch.ones_like(t)], -1).flatten(0, 1)
    seen = features * episodes.alive.double().reshape(-1, 1)
    square = seen.T @ features + RIDGE * torch.eye(features.shape[-1], device=x.device, dtype=x.dtype)
    weights = torch.linalg.solve(square, seen.T @ returns.double().reshape(-1, 1))
    return (features @ weights).reshape(rows, steps).to(returns.dtype)


def normalised(advantages: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages with mean 0 and deviation 1 over all steps that were taken, and the deviation that they had."""
    count = alive.sum()
    mean = (advantages * alive).sum() / count
    deviation = (((advantages - mean).square() * alive).sum() / count).sqrt() + SMALL
    return (advantages - mean) / deviation, deviation


def generalised(rewards: Tensor, values: Tensor, alive: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimates [N, H] (Schulman et al., arXiv 1506.02438, eq. 16).

    After the last step nothing is expected. Steps that were not taken are passed over, so that an episode which ended
    early is followed by the next one of its trial.

    Args:
        rewards: [N, H].
        values: what was expected before each step [N, H].
        alive: [N, H].
        discount: gamma.
        trace: lambda.
    """
    advantage = value = torch.zeros_like(values[:, 0])
    found = []
    for reward, expected, taken in zip(*(part.flip(1).unbind(1) for part in (rewards, values, alive)), strict=True):
        now = reward + discount * value - expected + discount * trace * advantage
        advantage, value = torch.where(taken > 0, now, advantage), torch.where(taken > 0, expected, value)
        found.append(advantage)
    return torch.stack(found[::-1], 1)
