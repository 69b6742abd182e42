"""ProMP: several proximal steps of the initialisation on the same episodes, and a low-variance inner derivative.

Rothfuss, Lee, Clavera, Asfour, Abbeel: ProMP: Proximal Meta-Policy Search, arXiv 1810.06784.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from pipeline.core.algorithm import detach
from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import Adam, iterate, last
from pipeline.core.types import About, Context, Episodes, MetaParams, Params, Score, Simulator, Task
from pipeline.core.world import ENVIRONMENT_STEPS
from pipeline.families.policy import QUERY, mean_over_steps
from pipeline.families.policy_gradient import PolicyGradient, PolicyGradientConfig, Stepped


@dataclass(frozen=True, kw_only=True)
class ProMPConfig(PolicyGradientConfig):
    """ProMP's proximal steps.

    The article takes them on all tasks of a step together. Here each task takes its own, and the outer optimizer moves
    theta by the mean of what they came to; use ``sgd`` with a rate of 1.

    Attributes:
        epochs: Steps on a task's episodes.
        lr: Rate of these steps, which Adam takes.
        clip: How far a ratio of probabilities may be from 1 and still be rewarded.
        kl: Weight of KL(phi_j before ‖ phi_j) in the support episodes of inner step j, phi_0 = theta.
    """

    epochs: InnerSteps = 5
    lr: Rate = 1e-3
    clip: Annotated[float, Gt(0), Lt(1)] = 0.3
    kl: Annotated[float, Ge(0), Le(1e6)] = 5e-4


class Acted(NamedTuple):
    """Episodes, the outputs of the policy that acted in them, its log π(a), and the advantages of its actions."""

    episodes: Episodes
    outputs: Tensor
    log_prob: Tensor
    advantages: Tensor


class ProMP(PolicyGradient):
    """Adam descends -mean_t(min(r A, clip(r) A)) + eta KL on query episodes, with r = π_phi(a) / π_phi_old(a).

    phi = theta + alpha ∇ mean_t(π_theta(a) / π_theta_old(a) A) on the support episodes; *before - after* is sent.
    """

    Config: ClassVar[type[ProMPConfig]] = ProMPConfig
    sends: ClassVar[str] = "theta - theta after proximal steps"
    about: ClassVar[About] = About("policy", "Rothfuss et al. 2019, arXiv 1810.06784")

    def learn(self, theta: MetaParams, task: Task[Simulator], context: Context) -> tuple[MetaParams, Score]:
        trajectory = list(self.inner_trajectory(theta, task.support, context))
        adapted, _ = trajectory[-1]
        episodes, _ = self.act_in(adapted, task.query, context.noise[QUERY])
        support = [self._acted(at.phi, seen) for at, seen in trajectory if seen is not None]
        query = self._acted(adapted.phi, episodes)

        def loss(start: Params, epoch: int) -> Tensor:
            return self._proximal_loss(start, support, query)

        start = theta["model"]
        after = last(iterate(loss, start, self.config.epochs, Adam(self.config.lr), first_order=True))
        steps = torch.stack([acted.episodes.alive.sum() for acted in (*support, query)]).sum()
        score = self.loss(episodes.rewards, episodes.alive)
        delta = {name: (leaf - after[name]).detach() for name, leaf in start.items()}
        return {"model": delta}, detach(score._replace(metrics=score.metrics | {ENVIRONMENT_STEPS: steps}))

    def _acted(self, phi: Params, episodes: Episodes) -> Acted:
        outputs = self.outputs(phi, episodes).detach()
        log_prob = self.distribution.log_prob(outputs, episodes.actions)
        return Acted(episodes, outputs, log_prob, self.advantages(episodes).values)

    def _proximal_loss(self, start: Params, support: Sequence[Acted], query: Acted) -> Tensor:
        """The clipped loss of where ``start`` adapts to, and how far its own policy went from the one that acted."""
        adapted, divergences = Stepped(start, 0), []
        for acted in support:
            outputs = self.outputs(adapted.phi, acted.episodes)
            divergence = self.distribution.divergence(acted.outputs, outputs)
            divergences.append(mean_over_steps(divergence, acted.episodes.alive))
            adapted = self.ascended(adapted, partial(self._ratio_surrogate, acted))
        ratio = (self.log_prob(adapted.phi, query.episodes) - query.log_prob).exp()
        clipped = ratio.clamp(1 - self.config.clip, 1 + self.config.clip)
        gain = torch.minimum(ratio * query.advantages, clipped * query.advantages)
        loss = -mean_over_steps(gain, query.episodes.alive)
        return loss + self.config.kl * torch.stack(divergences).mean() if divergences else loss

    def _ratio_surrogate(self, acted: Acted, phi: Params) -> Tensor:
        ratio = (self.log_prob(phi, acted.episodes) - acted.log_prob).exp()
        return mean_over_steps(ratio * acted.advantages, acted.episodes.alive)
