"""Two families of functions in one source: sine waves, and lines with a bend at 0. A task is of one of them.

What fits one family does not fit the other, so a method that adapts its architecture to a task can show it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le

from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_one_way, require_support
from pipeline.core.types import Batch, Task
from pipeline.tasks.sinusoid import WaveConfig, ranges_of

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class WavesAndHingesConfig(WaveConfig):
    """Bounds of uniform draws.

    Attributes:
        slope: The largest slope of a line, up or down.
        functions: Which families there are: ``both`` by turns, or one alone.
    """

    slope: Annotated[float, Gt(0), Le(1e3)] = 1.0
    functions: Literal["both", "waves", "hinges"] = "both"


class WavesAndHinges:
    """A wave is y = A sin(x - phase); a hinge y = a max(x, 0) + b max(-x, 0), with a and b within ±``slope``.

    Of both, tasks with an even number are waves and those with an odd number hinges. ``x`` and ``y`` are float64
    [N, 1]. Every split has the same distribution.

    Raises:
        ConfigError: a range is empty, or the shape of a task asks for ways, or for no shots.
    """

    Config: ClassVar[type[WavesAndHingesConfig]] = WavesAndHingesConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: WavesAndHingesConfig, shapes: TaskShapes) -> None:
        ranges_of(config)
        require_support(shapes)
        require_one_way("train", shapes.train)
        require_one_way("eval", shapes.eval)
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Batch, (1,), 1, "values", "mean_squared_error")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        """Draws the function, then the support set, then the query set."""
        rng, shape, config = ticket.rng("task"), self._shapes.of(ticket), self._config
        wave = {"both": ticket.number % 2 == 0, "waves": True, "hinges": False}[config.functions]
        function = (self._wave if wave else self._hinge)(rng)
        x = rng.uniform(*config.x, size=(shape.shots + shape.queries, 1))
        parts = (np.split(values, [shape.shots]) for values in (x, function(x)))
        support, query = (Batch(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(*parts, strict=True))
        return Task(ticket.id, support, query, shape.ways)

    def _wave(self, rng: np.random.Generator) -> Function:
        amplitude, phase = rng.uniform(*self._config.amplitude), rng.uniform(*self._config.phase)
        return lambda x: amplitude * np.sin(x - phase)

    def _hinge(self, rng: np.random.Generator) -> Function:
        right, left = rng.uniform(-self._config.slope, self._config.slope, size=2)
        return lambda x: right * np.maximum(x, 0) + left * np.maximum(-x, 0)
