"""A half cheetah that should run in a direction or at a speed, which it does not see (arXiv 1703.03400, §5.3).

The body is gymnasium's ``HalfCheetah-v5``, which MuJoCo simulates; rewards are those of the
authors' code, https://github.com/cbfinn/maml_rl.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.bounds import Count
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import Params, Simulator, Task
from pipeline.core.world import WorldStep
from pipeline.tasks.environments import Environments, make_environment, seeds, versions_of, warm
from pipeline.tasks.episodes import simulators

NAME, OBSERVED, JOINTS = "HalfCheetah-v5", 17, 6
FASTEST, EFFORT = 2.0, 0.05
"""The highest speed that is asked for, and what the square of an action costs."""

PICTURE, PIXELS_A_METRE, REACH = (192, 96), 48, 2
"""Width and height of a picture and its scale; how far to both sides it shows the ground, in metres."""

Goal = Literal["direction", "velocity"]


@dataclass(frozen=True)
class CheetahConfig:
    """What the cheetah should do, and for how long.

    Attributes:
        goal: Run forwards or backwards as fast as it can, or at a speed that is uniform on [0, 2].
        horizon: Steps of an episode, of 0.05 s each.
    """

    goal: Goal = "direction"
    horizon: Count = 100


class Cheetah(NamedTuple):
    """A cheetah with a goal as a world.

    A reward is v g, or -|v - g| where g is a speed, minus 0.05 ‖a‖². Actions are cut to the range of the motors.

    Args:
        name: of the environment.
        goal: what g is.
        wanted: g [].
    """

    name: str
    goal: Goal
    wanted: Tensor

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        return self._environments.start(episodes["seed"], lambda _: None, self.wanted)

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        taken = action.clamp(-1, 1)
        after, velocity = self._environments.step(state, taken, "x_velocity")
        gain = velocity * self.wanted if self.goal == "direction" else -(velocity - self.wanted).abs()
        return after._replace(reward=gain - EFFORT * taken.square().sum(-1))

    def picture(self, state: Params) -> np.ndarray:
        """The first cheetah from its side, with a mark on the ground at each metre.

        MuJoCo's own renderer needs a graphics library, which a machine without a display often lacks.
        """
        body = self._environments.first
        image = Image.new("RGB", PICTURE, "white")
        draw, here = ImageDraw.Draw(image), float(body.data.geom("torso").xpos[0])

        def at(x: float, z: float) -> tuple[float, float]:
            return (PICTURE[0] / 2 + PIXELS_A_METRE * (x - here), PICTURE[1] - 8 - PIXELS_A_METRE * z)

        draw.line([at(here - REACH, 0), at(here + REACH, 0)], fill="grey")
        for metre in range(math.floor(here - REACH), math.ceil(here + REACH) + 1):
            draw.line([at(metre, 0), at(metre, -0.1)], fill="grey", width=2)
        for part in range(1, body.model.ngeom):  # number 0 is the floor; the others are capsules
            centre, along = body.data.geom_xpos[part], body.data.geom_xmat[part].reshape(3, 3)[:, 2]
            radius, half = body.model.geom_size[part][:2]
            ends = [at(*(centre + side * half * along)[[0, 2]]) for side in (-1, 1)]
            draw.line(ends, fill="black", width=round(2 * radius * PIXELS_A_METRE))
        return np.asarray(image)

    @property
    def _environments(self) -> Environments:
        return warm(make_environment, self.name)


class HalfCheetah:
    """``shots`` and ``queries`` are episodes of one goal. Every split has the same distribution.

    Directions take turns over the tasks of a step, and over the first ones of steps: an even number of tasks has as
    many of either. What both gain alike by chance would else hide what they gain by adapting.

    Raises:
        ConfigError: the extra ``control`` is not installed.
    """

    Config: ClassVar[type[CheetahConfig]] = CheetahConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: CheetahConfig, shapes: TaskShapes) -> None:
        self.versions = versions_of("control", "gymnasium", "mujoco")
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr((NAME, config)).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Simulator, (OBSERVED,), 2 * JOINTS, "none", "return", actions=Actions(JOINTS, discrete=False))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        rng, config = ticket.rng("task"), self._config
        direction = (1.0, -1.0)[(ticket.step + ticket.number) % 2]
        wanted = direction if config.goal == "direction" else rng.uniform(0.0, FASTEST)
        world = Cheetah(NAME, config.goal, torch.tensor(wanted, dtype=torch.float64))
        return simulators(ticket, self._shapes.of(ticket), world, lambda count: seeds(rng, count), config.horizon)
