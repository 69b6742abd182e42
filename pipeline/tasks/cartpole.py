"""Cart poles of other lengths under another gravity, on gymnasium's ``CartPole-v1``.

The cart pole is that of Barto, Sutton and Anderson (IEEE Transactions SMC 13, 1983).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.bounds import Count
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import Params, Simulator, Task
from pipeline.core.world import WorldStep
from pipeline.tasks.environments import Environments, make_environment, seeds, versions_of, warm
from pipeline.tasks.episodes import simulators

NAME, OBSERVED, CHOICES = "CartPole-v1", 4, 2

PICTURE, PIXELS_A_METRE = (192, 96), 32
"""Width and height of a picture, and its scale."""

Length = Annotated[float, Gt(0), Le(100)]
Gravity = Annotated[float, Ge(0), Le(1000)]


@dataclass(frozen=True)
class CartPoleConfig:
    """Bounds of uniform draws, and the length of an episode.

    Attributes:
        length: Half the length of a pole, in metres; gymnasium's is 0.5.
        gravity: In m/s²; gymnasium's is 9.8.
        horizon: Steps of an episode in which the pole does not fall.
    """

    length: tuple[Length, Length] = (0.25, 1.0)
    gravity: tuple[Gravity, Gravity] = (5.0, 15.0)
    horizon: Count = 200


class Pole(NamedTuple):
    """A cart pole as a world: each step until the pole falls gives 1.

    Args:
        name: of the environment.
        length: half the pole's length [].
        gravity: [].
    """

    name: str
    length: Tensor
    gravity: Tensor

    def start(self, episodes: Params) -> tuple[Params, Tensor]:
        length, gravity = float(self.length), float(self.gravity)

        def prepare(environment: Any) -> None:
            environment.length, environment.gravity = length, gravity
            environment.polemass_length = environment.masspole * length

        return self._environments.start(episodes["seed"], prepare, self.length)

    def step(self, state: Params, action: Tensor, episodes: Params, t: int) -> WorldStep:
        return self._environments.step(state, action)[0]

    def picture(self, state: Params) -> np.ndarray:
        """The first cart on its track with its pole."""
        place, _, angle, _ = state["observation"][0].tolist()
        image = Image.new("RGB", PICTURE, "white")
        draw, (width, height) = ImageDraw.Draw(image), PICTURE
        x, y = width / 2 + PIXELS_A_METRE * place, height - 16
        long = 2 * PIXELS_A_METRE * float(self.length)
        draw.line([(0, y), (width, y)], fill="grey")
        draw.rectangle((x - 10, y - 5, x + 10, y + 5), fill="black")
        draw.line([(x, y), (x + long * math.sin(angle), y - long * math.cos(angle))], fill="green", width=4)
        return np.asarray(image)

    @property
    def _environments(self) -> Environments:
        return warm(make_environment, self.name)


class CartPole:
    """``shots`` and ``queries`` are episodes with one cart pole. Every split has the same distribution.

    Raises:
        ConfigError: a range is empty, or the extra ``control`` is not installed.
    """

    Config: ClassVar[type[CartPoleConfig]] = CartPoleConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: CartPoleConfig, shapes: TaskShapes) -> None:
        for name, (low, high) in (("length", config.length), ("gravity", config.gravity)):
            if low > high:
                raise ConfigError(f"source.{name}: ({low}, {high}) is empty; the first bound must not be the larger")
        self.versions = versions_of("control", "gymnasium")
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr((NAME, config)).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Simulator, (OBSERVED,), CHOICES, "none", "return", actions=Actions(CHOICES, discrete=True))

    def sample(self, ticket: Ticket) -> Task[Simulator]:
        rng, config = ticket.rng("task"), self._config
        length, gravity = (torch.tensor(rng.uniform(*bounds)).double() for bounds in (config.length, config.gravity))
        pole = Pole(NAME, length, gravity)
        return simulators(ticket, self._shapes.of(ticket), pole, lambda count: seeds(rng, count), config.horizon)
