"""A point that must find a goal on the plane, which it does not see (Finn et al., MAML, arXiv 1703.03400, §5.3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Gt, Le
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.bounds import Count
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import Params, Simulator, Task
from pipeline.core.world import WorldStep
from pipeline.tasks.episodes import simulators

LONGEST, NEAR = 0.1, 0.01
"""The longest step along each axis, and how near to the goal on both axes an episode ends."""

PICTURE, DOT = 128, 4
"""The sides of a picture and the radius of its dots, in pixels."""


@dataclass(frozen=True)
class NavigationConfig:
    """The goals and the length of an episode.

    Attributes:
        reach: Goals are uniform on the square from -reach to reach.
        horizon: Steps of an episode that does not come to its goal.
    """

    reach: Annotated[float, Gt(0), Le(1000)] = 0.5
    horizon: Count = 100


class Plane(NamedTuple):
    """The plane as a world: ``goal`` [2].

    An observation is the point's own place; a reward is its negative distance from the goal, as in the authors' code
    (https://github.com/cbfinn/maml_rl); the article says the squared distance.
    """

    goal: Tensor

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        return {"place": episodes["place"]}, episodes["place"]

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        place = state["place"] + action.clamp(-LONGEST, LONGEST)
        left = place - self.goal
        done = (left.abs() < NEAR).all(-1).to(place.dtype)
        return WorldStep({"place": place}, place, -left.square().sum(-1).sqrt(), done)

    def picture(self, state: Params) -> np.ndarray:
        """The square around the origin with the goal in green and the point in black, at the edge where it has left."""
        half = max(1.0, 2 * float(self.goal.abs().max()))
        image = Image.new("RGB", (PICTURE, PICTURE), "white")
        draw = ImageDraw.Draw(image)
        for (x, y), colour in ((self.goal.tolist(), "green"), (state["place"][0].tolist(), "black")):
            across, down = (PICTURE / 2 * (1 + min(max(at / half, -1), 1)) for at in (x, -y))
            draw.ellipse((across - DOT, down - DOT, across + DOT, down + DOT), fill=colour)
        return np.asarray(image)


class Navigation:
    """``shots`` and ``queries`` are episodes towards one goal, from the origin.

    Every split has the same distribution.
    """

    Config: ClassVar[type[NavigationConfig]] = NavigationConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: NavigationConfig, shapes: TaskShapes) -> None:
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Simulator, (2,), 4, "none", "return", actions=Actions(2, discrete=False))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        reach = self._config.reach
        plane = Plane(torch.from_numpy(ticket.rng("task").uniform(-reach, reach, size=2)))

        def episodes(count: int) -> Params:
            return {"place": torch.zeros(count, 2, dtype=torch.float64)}

        return simulators(ticket, self._shapes.of(ticket), plane, episodes, self._config.horizon)
