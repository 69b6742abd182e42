"""The check of the contract that is for agents alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.core.agent import Agent
from pipeline.core.world import play
from pipeline.testing.case import SEED, Case
from pipeline.testing.compare import assert_close


def check_an_agent_acts_alone_as_in_episodes(case: Case) -> None:
    """One observation at a time, told of each reward, it acts as ``act_in`` does. It adapts to what it did itself."""
    agent, theta, (task, context) = case.algorithm, case.theta(), case.drawn(1, "evaluate")
    assert isinstance(agent, Agent)
    adapted, rows = agent.adapt(theta, task.support, context), task.query.rows
    noise = agent.distribution.noise(np.random.default_rng(SEED), (rows, task.query.horizon))
    together, _ = agent.act_in(adapted, task.query, noise)
    alone = adapted

    def act(t: int, observation: Tensor, reward: Tensor, done: Tensor) -> Tensor:
        nonlocal alone
        alone = agent.rewarded(alone, reward, done) if t else alone
        action, alone = agent.respond(alone, observation, noise[:, t])
        return action

    one_by_one, _ = play(task.query, act)
    for name, whole, single in zip(together._fields, together, one_by_one, strict=True):
        taken = together.alive.reshape(*together.alive.shape, *[1] * (whole.dim() - 2))
        assert_close(single * taken, whole * taken, f"{name} of episodes acted in one observation at a time")
    after = agent.predict(agent.experience(adapted, together), together.observations[:, 0])
    before = agent.predict(adapted, together.observations[:, 0])
    assert not torch.equal(after, before), "experience changes nothing in what the agent does next"
