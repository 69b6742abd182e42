"""The contract of a world, and how episodes are acted in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Episodes, Params, Simulator


class WorldStep(NamedTuple):
    """What N episodes come to by one action each.

    Args:
        state: whatever the world must know; tensors [N, …].
        observation: [N, *observation].
        reward: [N].
        done: [N], 1 where the episode has ended.
    """

    state: Params
    observation: Tensor
    reward: Tensor
    done: Tensor


class World(Protocol):
    """A task's world as a ``NamedTuple`` of its parameters, in which N episodes are acted at once.

    Where all parameters are tensors, its methods consist of operations that ``torch.func.vmap`` takes, and tasks are
    computed together. A world that runs a simulator of its own has a field that is no tensor, such as a name: its
    tasks are computed one after the other.

    Where every episode lasts to the horizon, a property ``lasts`` that is True says so, and saves an agent the work of
    forgetting what follows an end.
    """

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        """The state and the observation [N, *observation] before the first action."""
        ...

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        """The actions [N] or [N, A] at time t."""
        ...


def lasts(world: Any) -> bool:
    """Whether a world says that each of its episodes lasts to the horizon."""
    return bool(getattr(world, "lasts", False))


@runtime_checkable
class HasOutcome(Protocol):
    """A world that tells more of finished episodes than their rewards."""

    def outcome(self, state: Params) -> Params:
        """Facts by name [N], for example whether an episode was a success."""
        ...


@runtime_checkable
class HasPicture(Protocol):
    """A world that can be looked at."""

    def picture(self, state: Params) -> np.ndarray:
        """The first of N episodes as it is now: uint8 [height, width, 3]."""
        ...


class Recorded(NamedTuple):
    """A world of recorded episodes, ``Simulator.episodes``: what comes next does not depend on the action."""

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        return {}, episodes["observations"][:, 0]

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        observations, alive = episodes["observations"], episodes["alive"]
        after = min(t + 1, observations.shape[1] - 1)
        return WorldStep({}, observations[:, after], episodes["rewards"][:, t], 1 - alive[:, after])


def recorded(episodes: Episodes) -> Simulator:
    """Recorded episodes as a simulator that repeats them."""
    clock = episodes.rewards.new_zeros(episodes.rewards.shape[1])
    return Simulator(Recorded(), episodes._asdict(), clock)


ENVIRONMENT_STEPS = "environment_steps"
"""The metric of an agent's training score that counts the steps of a task, of which the loop tells steps per second."""

Act = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Chooses actions from the time, the observations [N, …], and the rewards and ends [N] that the last actions gave."""


def play(simulator: Simulator, act: Act) -> tuple[Episodes, Params]:
    """Act in all episodes of a simulator at once, to their ends.

    Returns:
        What was seen, done and rewarded, and the world's last state.
    """
    world, episodes = simulator.world, simulator.episodes
    state, observation = world.start(episodes)
    reward = done = torch.zeros_like(simulator.clock[0]).expand(simulator.rows)
    alive = 1 - done
    taken: list[tuple[Tensor, ...]] = []
    for t in range(simulator.horizon):
        action = act(t, observation, reward, done)
        after = world.step(state, action, episodes, t)
        reward = after.reward * alive
        taken.append((observation, action, reward, alive))
        state, observation, done = after.state, after.observation, after.done
        alive = alive * (1 - done)
    return Episodes(*(torch.stack(column, 1) for column in zip(*taken, strict=True))), state


def outcome(world: Any, state: Params) -> Params:
    """What a world tells of its finished episodes beside their rewards; nothing by default."""
    return world.outcome(state) if isinstance(world, HasOutcome) else {}
