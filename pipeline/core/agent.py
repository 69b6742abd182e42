"""The contract of an algorithm whose tasks are worlds to act in."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from pipeline.core.actions import Distribution
from pipeline.core.algorithm import Algorithm
from pipeline.core.types import A, Episodes, MetaParams, Params, Simulator


class Agent(Algorithm[Simulator, A]):
    """Adapts by acting in support episodes. Beside that it can be served, one observation at a time.

    ``begin``, ``respond`` and ``rewarded`` together act as ``act_in`` does, and ``experience`` adapts to episodes that
    were recorded elsewhere.
    """

    distribution: Distribution
    """How a policy's outputs become actions."""

    @abstractmethod
    def begin(self, theta: MetaParams) -> A:
        """The agent before any experience."""

    @abstractmethod
    def respond(self, adapted: A, x: Tensor, noise: Tensor) -> tuple[Tensor, A]:
        """Actions for observations x [N, *input], one of each of N episodes, and the agent that has chosen them.

        Args:
            adapted: the agent.
            x: the observations.
            noise: the random numbers that choose the actions [N, …].
        """

    def rewarded(self, adapted: A, reward: Tensor, done: Tensor) -> A:
        """The agent that is told what its last actions gave: reward and end of the episode [N]. Default: no change."""
        return adapted

    @abstractmethod
    def experience(self, adapted: A, episodes: Episodes) -> A:
        """The agent after these episodes, whoever acted in them."""

    @abstractmethod
    def act_in(self, adapted: A, simulator: Simulator, noise: Tensor) -> tuple[Episodes, Params]:
        """Act in all episodes of a simulator, each from ``adapted``; returns them and the world's last state."""
