"""Tabular Markov decision processes, drawn at random (Duan et al., RL², arXiv 1611.02779)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.bounds import Count
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import Params, Simulator, Task
from pipeline.core.world import WorldStep
from pipeline.tasks.episodes import simulators


@dataclass(frozen=True)
class MDPsConfig:
    """Transitions are from a flat Dirichlet distribution, mean rewards from N(1, 1); a reward is from N(mean, 1).

    Attributes:
        states: States; each episode begins in the first.
        choices: Actions in each state.
        horizon: Steps of an episode.
    """

    states: Count = 10
    choices: Count = 5
    horizon: Count = 10


class MDP(NamedTuple):
    """A Markov decision process as a world: an observation is the state, one-hot.

    Args:
        transitions: probabilities of the next state [S, A, S].
        rewards: mean rewards [S, A].
    """

    transitions: Tensor
    rewards: Tensor

    @property
    def lasts(self) -> bool:
        return True

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        state = torch.zeros_like(episodes["chance"][:, 0], dtype=torch.int64)
        return {"state": state}, self._observed(state)

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        here = state["state"]
        below = self.transitions[here, action].cumsum(-1)[:, :-1]
        there = (episodes["chance"][:, t : t + 1] >= below).sum(-1)
        reward = self.rewards[here, action] + episodes["noise"][:, t]
        return WorldStep({"state": there}, self._observed(there), reward, torch.zeros_like(reward))

    def optimum(self, horizon: int) -> Tensor:
        """The expected return of the best policy, by value iteration over the steps that are left."""
        value = torch.zeros_like(self.rewards[:, 0])
        for _ in range(horizon):
            value = (self.rewards + self.transitions @ value).max(-1).values
        return value[0]

    def _observed(self, state: Tensor) -> Tensor:
        # Under vmap about twice as fast as torch's one_hot.
        return (state.unsqueeze(-1) == torch.arange(len(self.rewards), device=state.device)).to(self.rewards.dtype)


class MDPs:
    """``shots`` and ``queries`` are episodes in one process. Every split has the same distribution."""

    Config: ClassVar[type[MDPsConfig]] = MDPsConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: MDPsConfig, shapes: TaskShapes) -> None:
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        states, choices = self._config.states, self._config.choices
        return Spec(Simulator, (states,), choices, "none", "return", actions=Actions(choices, discrete=True))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        rng, config = ticket.rng("task"), self._config
        states, horizon = config.states, config.horizon
        transitions = rng.dirichlet([1.0] * states, size=(states, config.choices))
        rewards = rng.normal(1.0, 1.0, size=(states, config.choices))
        mdp = MDP(torch.from_numpy(transitions), torch.from_numpy(rewards))

        def episodes(count: int) -> Params:
            chance, noise = rng.uniform(size=(count, horizon)), rng.normal(size=(count, horizon))
            return {"chance": torch.from_numpy(chance), "noise": torch.from_numpy(noise)}

        return simulators(ticket, self._shapes.of(ticket), mdp, episodes, horizon)

    def judge(self, answers: Params, query: Simulator) -> dict[str, float]:
        """Returns as shares of the best policy's expected return.

        With few states and choices that may be near 0 or below it, where a share means little.
        """
        best = float(query.world.optimum(query.horizon))
        return {f"{name}_share": float(value) / best for name, value in answers.items()}
