"""Episodes as moving pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.core.agent import Agent
from pipeline.core.types import Params, Simulator
from pipeline.core.world import WorldStep

MILLISECONDS, LONGEST = 40, 1000
"""How long each picture is shown, and how many there are at most."""


class Filmed:
    """A world that keeps a picture of each of its states."""

    def __init__(self, world: Any) -> None:
        self.world, self.frames = world, list[np.ndarray]()
        self.over = False

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        state, observation = self.world.start(episodes)
        self.frames.append(self.world.picture(state))
        return state, observation

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        after = self.world.step(state, action, episodes, t)
        if not self.over and len(self.frames) < LONGEST:
            self.frames.append(self.world.picture(after.state))
        self.over = self.over or bool(after.done[0])
        return after


def film(agent: Agent[Any], adapted: Any, simulator: Simulator, noise: Tensor) -> bytes:
    """The first episode of a simulator as a GIF, or the beginning of a long one. Its world is a ``HasPicture``.

    Args:
        agent: the run's algorithm.
        adapted: what acts.
        simulator: the episodes.
        noise: the random numbers of the first episode's actions [1, H, …].
    """
    filmed = Filmed(simulator.world)
    with torch.no_grad():
        agent.act_in(adapted, simulator.take(0, 1)._replace(world=filmed), noise)
    first, *others = (Image.fromarray(frame) for frame in filmed.frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=MILLISECONDS, loop=0)
    return file.getvalue()
