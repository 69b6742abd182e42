"""A recurrent policy and its critic, and the memory that they carry from step to step.

Shapes: N episodes, F features of an observation, U fast units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.actions import Distribution
from pipeline.core.network import HEAD, Network
from pipeline.core.types import Params
from pipeline.nets.cells import CELLS
from pipeline.nets.net import fan_in_normal

FAST = "fast"
"""The name of the fast weights [N, U, F] in a state."""


class Memory(NamedTuple):
    """An agent in the middle of a trial, for N episodes that go on from here.

    Args:
        phi: its weights.
        state: of the recurrent cell [N, hidden], and the fast weights.
        observation: the features of what it acted on last [N, F]; 0 before the first.
        action: its last action as a network reads it [N, size]; 0 before the first.
        reward: what that gave [N].
        done: whether that ended an episode [N].
        returned: the return of each episode so far [E].
    """

    phi: Params
    state: Params
    observation: Tensor
    action: Tensor
    reward: Tensor
    done: Tensor
    returned: Tensor

    def for_episodes(self, rows: int) -> Memory:
        """A memory from which each of ``rows`` episodes goes on."""

        def each(leaf: Tensor) -> Tensor:
            return leaf.expand(rows, *leaf.shape[1:])

        return self._replace(
            state={name: each(leaf) for name, leaf in self.state.items()},
            observation=each(self.observation),
            action=each(self.action),
            reward=each(self.reward),
            done=each(self.done),
        )


class RecurrentPolicy:
    """A step is read by a layer, where there is one, then by the cell; outputs and value are linear.

    Fast weights (Schmidhuber 1992; Ba et al., arXiv 1610.06258) bind what the layer made of a step to the observation
    that was acted on, M_t = M_{t-1} + tanh(V e_t) φ(x_{t-1})ᵀ. The present observation recalls M_t φ(x_t), which the
    cell and the linear layers after it read too.

    Args:
        config: the fields ``cell``, ``hidden``, ``embedding``, ``memory_steps`` and ``fast_weights`` of an algorithm.
        model: embeds observations.
        distribution: of actions.
    """

    def __init__(self, config: Any, model: Network, distribution: Distribution) -> None:
        self.config, self.model, self.distribution = config, model, distribution
        self.recalls: int = (config.fast_weights or 0) if config.embedding is not None else 0
        told = model.net.features + distribution.size + 2
        self.cell = CELLS[config.cell]("cell", (config.embedding or told) + self.recalls, config.hidden)

    def init(self, rng: np.random.Generator) -> Params:
        """Fresh leaves."""
        config, features = self.config, self.model.net.features
        body = {name: leaf for name, leaf in self.model.init(rng).items() if not name.startswith(HEAD)}
        cell, width = self.cell.init(rng), config.hidden + self.recalls
        head = self.model.net.init_head(rng, width)
        value = {"value/weight": fan_in_normal(rng, (1, width), width, 1.0), "value/bias": torch.zeros(1)}
        found = body | cell | head | value
        if config.memory_steps is not None:
            found |= self.cell.chrono(rng, cell, config.memory_steps)
        if config.embedding is not None:
            inputs = 2 * features + self.distribution.size + 2
            found["embedding/weight"] = fan_in_normal(rng, (config.embedding, inputs), inputs)
            found["embedding/bias"] = torch.zeros(config.embedding)
        if self.recalls:
            found["fast/weight"] = fan_in_normal(rng, (self.recalls, config.embedding), config.embedding, 1.0)
        return found

    def begin(self, phi: Params) -> Memory:
        """The memory of one episode before its first step."""
        nothing, features = torch.zeros_like(phi["value/bias"]), self.model.net.features
        observation, action = (nothing.expand(1, size) for size in (features, self.distribution.size))
        state = self.cell.start(nothing.expand(1, 1))
        if self.recalls:
            state = state | {FAST: nothing.expand(1, self.recalls, features)}
        return Memory(phi, state, observation, action, nothing, nothing, nothing[:0])

    def step(self, memory: Memory, x: Tensor) -> tuple[Tensor, Tensor, Memory]:
        """What the distribution takes [N, width], the expected return [N], and the memory of observations x [N, …]."""
        phi, seen = memory.phi, self.model.embed(memory.phi, x)
        told = torch.cat([seen, memory.action, memory.reward.unsqueeze(-1), memory.done.unsqueeze(-1)], -1)
        if self.config.embedding is not None:
            transition = torch.cat([told, memory.observation], -1)
            told = torch.relu(transition @ phi["embedding/weight"].T + phi["embedding/bias"])
        if not self.recalls:
            state = self.cell(phi, told, memory.state)
            features = state["h"]
        else:
            bound = torch.tanh(told @ phi["fast/weight"].T).unsqueeze(-1) * memory.observation.unsqueeze(-2)
            fast = memory.state[FAST] + bound
            recalled = (fast * seen.unsqueeze(-2)).sum(-1)
            state = self.cell(phi, torch.cat([told, recalled], -1), memory.state) | {FAST: fast}
            features = torch.cat([state["h"], recalled], -1)
        value = (features @ phi["value/weight"].T + phi["value/bias"]).squeeze(-1)
        return self.model.net.read_out(phi, features), value, memory._replace(state=state, observation=seen)
