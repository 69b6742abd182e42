"""MAML for agents: an initialisation of a policy from which a policy gradient step solves a world.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400, §3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.core.algorithm import backprop
from pipeline.core.types import About, Context, Episodes, MetaParams, Score, Simulator, Task
from pipeline.core.world import ENVIRONMENT_STEPS
from pipeline.families.advantages import returns_to_go
from pipeline.families.policy import QUERY, mean_over_steps
from pipeline.families.policy_gradient import PolicyGradient, PolicyGradientConfig, Stepped

Trajectory = list[tuple[Stepped, Episodes | None]]


@dataclass(frozen=True, kw_only=True)
class MAMLRLConfig(PolicyGradientConfig):
    """MAML's inner steps for agents, and how the gradient passes through them.

    Attributes:
        estimator: ``score``: what inner steps ascend is log π · A, and the outer loss has a term for theta's share in
            which support episodes are sampled (objective I of Rothfuss et al., arXiv 1810.06784, §4; E-MAML, arXiv
            1803.01118). It is unbiased for any number of episodes with ``baseline: none``, ``normalise: false`` and a
            discount of 1: other advantages are fitted to the episodes that they weigh. ``lvc`` (arXiv 1810.06784)
            and ``dice`` (arXiv 1802.05098, with advantages as in 1909.10549) have other surrogates, whose second
            derivative is that of the expected return, and no such term: less variance, and unbiased with many
            episodes only (objective II).
    """

    estimator: Literal["score", "lvc", "dice"] = "lvc"


class MAMLRL(PolicyGradient):
    """The outer loss is that of the policy gradient, -mean_t(log π_phi(a_t | x_t) A_t), on query episodes of phi.

    The article's outer step is TRPO's. Ours is one gradient for an outer optimizer, so that it is computed task by
    task.
    """

    Config: ClassVar[type[MAMLRLConfig]] = MAMLRLConfig
    about: ClassVar[About] = About("policy", "Finn, Abbeel, Levine 2017, arXiv 1703.03400")
    differentiable = True

    def learn(self, theta: MetaParams, task: Task[Simulator], context: Context) -> tuple[MetaParams, Score]:
        return backprop(self, theta, task, context)

    def surrogate(self, log_prob: Tensor, advantages: Tensor, alive: Tensor) -> Tensor:
        if self.config.estimator == "score":
            return super().surrogate(log_prob, advantages, alive)
        if self.config.estimator == "lvc":
            return mean_over_steps(magic(log_prob) * advantages, alive)
        so_far = (log_prob * alive).cumsum(-1)
        return mean_over_steps((magic(so_far) - magic(so_far - log_prob)) * advantages, alive)

    def objective(self, theta: MetaParams, task: Task[Simulator], context: Context) -> Score:
        trajectory = list(self.inner_trajectory(theta, task.support, context))
        adapted, _ = trajectory[-1]
        query, _ = self.act_in(adapted, task.query, context.noise[QUERY])
        advantages, scale = self.advantages(query)
        loss = -mean_over_steps(self.log_prob(adapted.phi, query) * advantages, query.alive)
        seen = [episodes for _, episodes in trajectory if episodes is not None]
        steps = [episodes.alive.sum() for episodes in (*seen, query)]
        if seen and self.config.estimator == "score":
            first, _ = trajectory[0]
            before, _ = self.act_in(first, task.query, context.noise[QUERY])
            loss = loss - self._sampling_term(trajectory, query, before) / scale
            steps.append(before.alive.sum())
        score = self.loss(query.rewards, query.alive)
        known = {"return_before": self.loss(seen[0].rewards, seen[0].alive).metrics["return"]} if seen else {}
        told = known | {ENVIRONMENT_STEPS: torch.stack(steps).sum()}
        return score._replace(loss=loss, metrics=score.metrics | told)

    def _sampling_term(self, trajectory: Trajectory, query: Episodes, before: Episodes) -> Tensor:
        """log p(support episodes) times the return that they led to, for each step of a query episode.

        What theta itself reached, ``before``, is subtracted: it does not depend on the support episodes, so the
        expectation stays, and the variance is lower.
        """
        gained = self._mean_return(query) - self._mean_return(before)
        log_p = [(self.log_prob(at.phi, seen) * seen.alive).sum() for at, seen in trajectory if seen is not None]
        return torch.stack(log_p).sum() * gained * len(query.alive) / query.alive.sum()

    def _mean_return(self, episodes: Episodes) -> Tensor:
        return returns_to_go(episodes.rewards, self.config.discount)[:, 0].mean()


def magic(log_prob: Tensor) -> Tensor:
    """1, with the derivatives of the probability ratio: exp(x - ⊥x)."""
    return (log_prob - log_prob.detach()).exp()
