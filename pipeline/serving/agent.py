"""Serves an agent: observations in, actions out."""

from __future__ import annotations

from collections import abc
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from pipeline.core.agent import Agent
from pipeline.core.failures import DataError
from pipeline.core.flat import cast
from pipeline.core.source import Spec
from pipeline.core.types import Episodes
from pipeline.serving.arrays import numbers, shaped


class Actor:
    """An agent in one world. It acts as it did in training: by chance where its policy is one of chance.

    Args:
        agent: the run's algorithm.
        adapted: what it knows of this world.
        spec: that of the tasks of training.
        dtype: theta's.
        rng: draws the random numbers of its actions, and goes on with each.
    """

    def __init__(
        self, agent: Agent[Any], adapted: Any, spec: Spec, dtype: torch.dtype, rng: np.random.Generator
    ) -> None:
        assert spec.actions is not None, "a source of simulators says which actions there are"
        self.agent, self.adapted, self.spec, self.dtype = agent, adapted, spec, dtype
        self.actions = spec.actions
        self._rng = rng

    def act(self, observation: Any) -> Any:
        """The action for an observation [*input].

        Returns:
            The number of a discrete action, or an array [A].

        Raises:
            DataError: an observation of another shape, or one that is not finite.

        >>> import pipeline
        >>> policy = pipeline.load("runs/first").adapt()
        >>> action = policy.act([0.0, 0.0])
        """
        x = shaped(observation, "observation", self.spec.input_shape)
        noise = self.agent.distribution.noise(self._rng, (1,))
        with torch.no_grad():
            action, self.adapted = self.agent.respond(
                self.adapted, torch.from_numpy(x).to(self.dtype).unsqueeze(0), cast(noise, self.dtype)
            )
        return int(action[0]) if self.actions.discrete else action[0].numpy()

    def rewarded(self, reward: float, *, done: bool = False) -> None:
        """Tell what the last action gave, and whether the episode ended with it. RL² acts by it; others need it not.

        Raises:
            DataError: the reward is no finite number.
        """
        told = shaped([reward], "reward", (1,)), np.array([float(done)])
        self.adapted = self.agent.rewarded(self.adapted, *(torch.from_numpy(one).to(self.dtype) for one in told))

    def adapt(self, episodes: abc.Sequence[Any]) -> Actor:
        """Another actor, which has learned from these episodes too: by one inner step, or by reading them.

        Args:
            episodes: each is (observations [T, *input], actions [T] or [T, A], rewards [T]).

        Raises:
            DataError: shapes or values that do not fit.
        """
        with torch.no_grad():
            adapted = self.agent.experience(self.adapted, self._episodes(episodes))
        return Actor(self.agent, adapted, self.spec, self.dtype, self._rng)

    def copy(self) -> Actor:
        """Another actor that knows the same, and draws the same random numbers."""
        return Actor(self.agent, self.adapted, self.spec, self.dtype, deepcopy(self._rng))

    def _episodes(self, episodes: abc.Sequence[Any]) -> Episodes:
        """Episodes of any lengths, padded to the longest."""
        if not isinstance(episodes, abc.Sequence) or isinstance(episodes, str):
            raise DataError(f"episodes: {type(episodes).__name__}, expected a list of (observations, actions, rewards)")
        read = [self._episode(one, number) for number, one in enumerate(episodes)]
        if not read:
            raise DataError("episodes: none; give one or more, or leave them out for the agent before any experience")
        longest = max(len(rewards) for _, _, rewards in read)
        alive = [np.ones(len(rewards)) for _, _, rewards in read]
        columns = (*zip(*read, strict=True), alive)
        return cast(Episodes(*(torch.from_numpy(_padded(column, longest)) for column in columns)), self.dtype)

    def _episode(self, episode: Any, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        name = f"episodes[{number}]"
        if not isinstance(episode, abc.Sequence) or len(episode) != 3:
            raise DataError(f"{name}: expected (observations, actions, rewards)")
        rewards = numbers(episode[2], f"{name} rewards", "expected one for each of one or more steps")
        if not (steps := len(rewards)):
            raise DataError(f"{name}: no rewards; expected one for each of one or more steps")
        size, discrete = self.actions
        observations = shaped(episode[0], f"{name} observations", (steps, *self.spec.input_shape))
        actions = shaped(episode[1], f"{name} actions", (steps,) if discrete else (steps, size))
        rewards = shaped(rewards, f"{name} rewards", (steps,))
        if not discrete:
            return observations, actions, rewards
        if (actions != actions.astype(np.int64)).any() or actions.min() < 0 or actions.max() >= size:
            raise DataError(f"{name} actions: expected whole numbers from 0 to {size - 1}")
        return observations, actions.astype(np.int64), rewards


def _padded(rows: abc.Sequence[np.ndarray], length: int) -> np.ndarray:
    """[N, length, …], zeros behind each row's end."""
    return np.stack([np.pad(row, [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)]) for row in rows])
