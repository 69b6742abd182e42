"""Methods whose tasks are worlds to act in: adaptation acts in support episodes, the score acts in query episodes.

All random numbers of a task are drawn before theta is known: those of the world by the source, those of the actions by
``draw``. So an episode is a pure function of theta and the ticket.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.agent import Agent
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import A, Context, Needs, Params, Phase, Score, Simulator, Task
from pipeline.core.world import outcome
from pipeline.nets.normalisation import refuse_batches

SUPPORT, QUERY = "support_actions", "query_actions"
"""The random numbers of the actions in support and in query episodes [N, H, …]."""


class PolicyBased(Agent[A]):
    """Acts by a network of the kind ``policy``.

    Raises:
        ConfigError: a normalisation that looks at a batch: an agent has one observation.
    """

    needs: ClassVar[Needs] = Needs(data=(Simulator,), targets=("none",), head=True)

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        refuse_batches(model.mode, "a policy acts on one observation")
        super().__init__(config, model, loss)
        self.distribution = model.net.distribution

    def draw(self, rng: np.random.Generator, task: Task[Simulator], phase: Phase) -> Params:
        parts = {SUPPORT: task.support, QUERY: task.query}
        return {name: self.distribution.noise(rng, (one.rows, one.horizon)) for name, one in parts.items()}

    def score(self, adapted: A, query: Simulator, context: Context) -> Score:
        """The return of the query episodes; what the world tells of them beside is for the source's ``judge``."""
        episodes, state = self.act_in(adapted, query, context.noise[QUERY])
        score, told = self.loss(episodes.rewards, episodes.alive), outcome(query.world, state)
        means = {name: fact.to(score.loss.dtype).mean() for name, fact in told.items()}
        return score._replace(answers={"return": score.metrics["return"]} | means)


def mean_over_steps(values: Tensor, alive: Tensor) -> Tensor:
    """The mean over all steps that were taken; ``values`` and ``alive`` are [N, H]."""
    return (values * alive).sum() / alive.sum()


def flat_steps(tensor: Tensor) -> Tensor:
    """[N, H, …] as [N·H, …]."""
    return torch.flatten(tensor, 0, 1)
