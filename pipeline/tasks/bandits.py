"""Bernoulli bandits: arms that pay 1 with a probability of their own (Duan et al., RL², arXiv 1611.02779)."""

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
class BanditsConfig:
    """Bandits whose probabilities are uniform on [0, 1].

    Attributes:
        arms: Arms of a bandit.
        horizon: Pulls of an episode.
    """

    arms: Count = 5
    horizon: Count = 10


class Bandit(NamedTuple):
    """A bandit as a world: ``payoffs`` [K] are its arms' probabilities. An observation says nothing: it is 1."""

    payoffs: Tensor

    @property
    def lasts(self) -> bool:
        return True

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        return {}, self._nothing(episodes)

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        paid = (episodes["luck"][:, t] < self.payoffs[action]).to(self.payoffs.dtype)
        return WorldStep(state, self._nothing(episodes), paid, torch.zeros_like(paid))

    def _nothing(self, episodes: Params) -> Tensor:
        return torch.ones_like(episodes["luck"][:, :1])


class Bandits:
    """``shots`` and ``queries`` are episodes of ``horizon`` pulls of one bandit.

    Every split has the same distribution.
    """

    Config: ClassVar[type[BanditsConfig]] = BanditsConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: BanditsConfig, shapes: TaskShapes) -> None:
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        arms = self._config.arms
        return Spec(Simulator, (1,), arms, "none", "return", actions=Actions(arms, discrete=True))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        rng, horizon = ticket.rng("task"), self._config.horizon
        bandit = Bandit(torch.from_numpy(rng.uniform(size=self._config.arms)))

        def episodes(count: int) -> Params:
            return {"luck": torch.from_numpy(rng.uniform(size=(count, horizon)))}

        return simulators(ticket, self._shapes.of(ticket), bandit, episodes, horizon)

    def judge(self, answers: Params, query: Simulator) -> dict[str, float]:
        """How much less was paid than the best arm pays on average."""
        best = float(query.world.payoffs.max()) * query.horizon
        return {"regret": best - float(answers["return"])}
