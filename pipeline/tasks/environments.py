"""Environments with gymnasium's interface, kept warm in each process, in which N episodes are acted at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.extras import missing
from pipeline.core.types import Params
from pipeline.core.world import WorldStep


class Environments:
    """The environments of one name in this process; new ones are made where an episode finds none.

    An episode begins with a ``reset`` by its own seed. That alone clears all that an earlier episode has left behind,
    such as the warm start of MuJoCo's solver. So a worker's past decides nothing.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._rollout = make, 0
        self._environments: list[Any] = []

    @property
    def first(self) -> Any:
        """The environment of the first episode, to be looked at."""
        return self._environments[0]

    def start(self, seeds: Tensor, prepare: Callable[[Any], None], like: Tensor) -> tuple[Params, Tensor]:
        """Begin an episode for each seed.

        Args:
            seeds: int64 [N].
            prepare: gives an environment the parameters of the task.
            like: has the type and the device of observations and rewards.

        Returns:
            The state, and the observation [N, *observation] before the first action.
        """
        self._environments += [self._make() for _ in range(len(seeds) - len(self._environments))]
        self._rollout += 1
        first = []
        for environment, seed in zip(self._environments, seeds.tolist(), strict=False):
            prepare(environment)
            first.append(environment.reset(seed=seed)[0])
        observation = _tensor(first, like)
        over = torch.zeros_like(observation.flatten(1)[:, 0])
        return {"rollout": torch.full_like(seeds, self._rollout), "over": over, "observation": observation}, observation

    def step(self, state: Params, action: Tensor, fact: str = "") -> tuple[WorldStep, Tensor]:
        """Act in each episode that is not over; the others stay where they are and give 0.

        Args:
            state: as ``start`` or the last step gave it.
            action: [N] or [N, A].
            fact: what to report beside: a number in the environment's ``info``.

        Returns:
            The step, and the fact [N].

        Raises:
            RuntimeError: the environments act in other episodes by now.
        """
        if int(state["rollout"][0]) != self._rollout:
            raise RuntimeError("these episodes were left when others began in the same environments")
        like, actions = state["observation"], action.detach().cpu().numpy()
        observations, over = like.double().cpu().numpy().copy(), state["over"].tolist()
        rewards, ends, facts = np.zeros(len(over)), np.array(over), np.zeros(len(over))
        for row, ended in enumerate(over):
            if not ended:
                observations[row], rewards[row], ends[row], _, info = self._environments[row].step(actions[row])
                facts[row] = info[fact] if fact else 0
        observation, reward, done, told = (_tensor(values, like) for values in (observations, rewards, ends, facts))
        return WorldStep(state | {"over": done, "observation": observation}, observation, reward, done), told


@functools.cache
def warm(make: Callable[[str], Any], name: str) -> Environments:
    """This process's environments of a name, of which ``make`` gives a new one."""
    return Environments(functools.partial(make, name))


def make_environment(name: str) -> Any:
    """A gymnasium environment without wrappers: the source's horizon ends an episode, and nothing looks on."""
    import gymnasium

    return gymnasium.make(name).unwrapped


def versions_of(extra: str, *packages: str) -> dict[str, str]:
    """The versions of packages that an extra installs. Raises ``ConfigError`` where one is absent."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            raise missing(package, extra) from None
    return found


def seeds(rng: np.random.Generator, count: int) -> Params:
    """The randomness of so many episodes: the seed of each one's reset."""
    return {"seed": torch.from_numpy(rng.integers(1 << 31, size=count))}


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64)).to(like)
