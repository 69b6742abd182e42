"""Policies whose weights adapt by policy gradient steps, each on episodes that the policy before it has acted in.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, arXiv 1703.03400, §3.3 and algorithm 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.bounds import Count, Rate
from pipeline.core.failures import ConfigError
from pipeline.core.network import Adapted
from pipeline.core.types import Context, Episodes, MetaParams, Params, Phase, Simulator, Task
from pipeline.core.world import play
from pipeline.families.advantages import linear_baseline, normalised, returns_to_go
from pipeline.families.policy import SUPPORT, PolicyBased, flat_steps, mean_over_steps

Discount = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig:
    """The inner steps. A task takes as many as its support set has episodes for; with none theta acts as it is.

    Attributes:
        inner_lr: Rate of an inner step, on the mean over all steps of its episodes.
        later_inner_lr: Rate of the inner steps after a task's first; ``null`` takes that of the first. MAML's authors
            halve it.
        inner_episodes: Episodes of an inner step, a divisor of ``shots``.
        discount: Factor of a reward one step later.
        baseline: What is subtracted from returns: what a linear function expects, fitted to a step's episodes, or
            nothing.
        normalise: Give advantages mean 0 and deviation 1.
    """

    inner_lr: Rate = 0.1
    later_inner_lr: Rate | None = None
    inner_episodes: Count = 20
    discount: Discount = 0.99
    baseline: Literal["linear", "none"] = "linear"
    normalise: bool = True


class Advantages(NamedTuple):
    """What actions are weighed by [N, H], and the deviation that they were divided by."""

    values: Tensor
    scale: Tensor


class Stepped(NamedTuple):
    """A policy's weights, and how many inner steps they have taken."""

    phi: Params
    steps: int


class PolicyGradient(PolicyBased[Stepped]):
    """phi_{j+1} = phi_j + alpha ∇ mean_t(log π_phi_j(a_t | x_t) A_t), on fresh episodes of phi_j at each step.

    ``config`` is a ``PolicyGradientConfig``.
    """

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {"model": self.model.init(rng)}

    def draw(self, rng: np.random.Generator, task: Task[Simulator], phase: Phase) -> Params:
        """Raises ``ConfigError`` where the support episodes are no whole number of inner steps."""
        shots, each = task.support.rows, self.config.inner_episodes
        if shots % each:
            raise ConfigError(
                f"algorithm.inner_episodes: {each}, and a task has {shots} support episodes (shots); take a divisor of "
                "that, since each inner step acts in episodes of its own"
            )
        return super().draw(rng, task, phase)

    def begin(self, theta: MetaParams) -> Stepped:
        return Stepped(theta["model"], 0)

    def experience(self, adapted: Stepped, episodes: Episodes) -> Stepped:
        advantages = self.advantages(episodes).values

        def surrogate(at: Params) -> Tensor:
            return self.surrogate(self.log_prob(at, episodes), advantages, episodes.alive)

        return self.ascended(adapted, surrogate)

    def adapt(self, theta: MetaParams, support: Simulator, context: Context) -> Stepped:
        *_, last = self.trace(theta, support, context)
        return last

    def trace(self, theta: MetaParams, support: Simulator, context: Context) -> Iterator[Stepped]:
        for adapted, _ in self.inner_trajectory(theta, support, context):
            yield adapted

    def predict(self, adapted: Stepped, x: Tensor) -> Tensor:
        """What the distribution of actions takes, [N, width]."""
        return self.model.predict(Adapted(adapted.phi, {}), x)

    def respond(self, adapted: Stepped, x: Tensor, noise: Tensor) -> tuple[Tensor, Stepped]:
        return self.distribution.sample(self.predict(adapted, x), noise), adapted

    def act_in(self, adapted: Stepped, simulator: Simulator, noise: Tensor) -> tuple[Episodes, Params]:
        fixed = adapted._replace(phi={name: leaf.detach() for name, leaf in adapted.phi.items()})

        def act(t: int, observation: Tensor, reward: Tensor, done: Tensor) -> Tensor:
            return self.respond(fixed, observation, noise[:, t])[0]

        return play(simulator, act)

    def inner_trajectory(
        self, theta: MetaParams, support: Simulator, context: Context
    ) -> Iterator[tuple[Stepped, Episodes | None]]:
        """The policy before each inner step with the episodes that it acts in, and that after the last with none."""
        adapted, each = self.begin(theta), self.config.inner_episodes
        for first in range(0, support.rows, each):
            noise = context.noise[SUPPORT][first : first + each]
            episodes, _ = self.act_in(adapted, support.take(first, each), noise)
            yield adapted, episodes
            adapted = self.experience(adapted, episodes)
        yield adapted, None

    def ascended(self, adapted: Stepped, surrogate: Callable[[Params], Tensor]) -> Stepped:
        """The policy after one step up a surrogate."""
        rate = (self.config.later_inner_lr if adapted.steps else None) or self.config.inner_lr
        gradient = torch.func.grad(surrogate)(adapted.phi)
        return Stepped({name: leaf + rate * gradient[name] for name, leaf in adapted.phi.items()}, adapted.steps + 1)

    def surrogate(self, log_prob: Tensor, advantages: Tensor, alive: Tensor) -> Tensor:
        """What an inner step ascends: its first derivative is the policy gradient."""
        return mean_over_steps(log_prob * advantages, alive)

    def advantages(self, episodes: Episodes) -> Advantages:
        """How much more return than expected followed each action."""
        returns = returns_to_go(episodes.rewards, self.config.discount)
        expected = linear_baseline(episodes, returns) if self.config.baseline == "linear" else 0.0
        if self.config.normalise:
            return Advantages(*normalised(returns - expected, episodes.alive))
        return Advantages(returns - expected, torch.ones_like(returns[0, 0]))

    def outputs(self, phi: Params, episodes: Episodes) -> Tensor:
        """What the distribution of each action takes [N, H, width]."""
        rows, steps = episodes.rewards.shape
        return self.model.predict(Adapted(phi, {}), flat_steps(episodes.observations)).reshape(rows, steps, -1)

    def log_prob(self, phi: Params, episodes: Episodes) -> Tensor:
        """log π(a) of each action [N, H]."""
        return self.distribution.log_prob(self.outputs(phi, episodes), episodes.actions)
