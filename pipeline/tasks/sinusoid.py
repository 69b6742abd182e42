"""Sine waves of random amplitude and phase: the regression that MAML introduced (arXiv 1703.03400, §5.1).

With the published ranges the constant answer 0 has a mean squared error of 4.25167. The best answer without adaptation,
-1.6234 cos x, has 3.00567. A method that is better before adaptation has seen the query set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket, rngs
from pipeline.core.source import Spec, TaskShapes, one_of, require_one_way, require_support
from pipeline.core.types import Batch, Points, Task

Amplitude = Annotated[float, Gt(0), Le(1e3)]
Phase = Annotated[float, Ge(-2 * math.pi), Le(2 * math.pi)]
Input = Annotated[float, Ge(-1e3), Le(1e3)]


@dataclass(frozen=True)
class WaveConfig:
    """Bounds of uniform draws.

    Attributes:
        amplitude: Of a wave.
        phase: Of a wave, in radians.
        x: Of each example's input.
    """

    amplitude: tuple[Amplitude, Amplitude] = (0.1, 5.0)
    phase: tuple[Phase, Phase] = (0.0, math.pi)
    x: tuple[Input, Input] = (-5.0, 5.0)


def ranges_of(config: WaveConfig) -> list[tuple[str, float, float]]:
    """The name and the bounds of each range. Raises ``ConfigError`` where one is empty."""
    ranges: list[tuple[str, float, float]] = [(name, *getattr(config, name)) for name in ("amplitude", "phase", "x")]
    for name, low, high in ranges:
        if not low < high:
            raise ConfigError(f"source.{name}: ({low}, {high}) is empty; the first bound must be below the second")
    return ranges


@dataclass(frozen=True)
class SinusoidConfig(WaveConfig):
    """Bounds of uniform draws, and how answers are judged.

    Attributes:
        density: Whether an answer is a density, judged by the log-likelihood, as neural processes give it, or a value,
            judged by its squared error. The tasks are the same.
    """

    density: bool = False


class Sinusoid:
    """y = A sin(x - phase) without noise; ``x`` and ``y`` are float64 [N, 1], ``Batch`` or, for a density, ``Points``.

    Every split has the same distribution.

    Raises:
        ConfigError: a range is empty, or the shape of a task asks for ways, or for no shots.
    """

    Config: ClassVar[type[SinusoidConfig]] = SinusoidConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: SinusoidConfig, shapes: TaskShapes) -> None:
        ranges = ranges_of(config)
        require_support(shapes)
        require_one_way("train", shapes.train)
        require_one_way("eval", shapes.eval)
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(ranges).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        if self._config.density:
            return Spec(Points, (1,), 1, "values", "gaussian")
        return Spec(Batch, (1,), 1, "values", "mean_squared_error")

    def sample(self, ticket: Ticket) -> Task[Any]:
        task = self.sample_chunk([ticket])
        return task._replace(support=one_of(task.support, 0), query=one_of(task.query, 0))

    def sample_chunk(self, tickets: Sequence[Ticket]) -> Task[Any]:
        """Draws amplitude and phase, then the support set, then the query set, whose size thus changes nothing before
        it. See ``DrawsChunks``."""
        config, shape = self._config, self._shapes.of(tickets[0])
        waves_T2, x_TN = np.empty((len(tickets), 2)), np.empty((len(tickets), shape.shots + shape.queries, 1))
        for row, rng in enumerate(rngs(tickets, "task")):
            waves_T2[row] = rng.uniform(*config.amplitude), rng.uniform(*config.phase)
            x_TN[row] = rng.uniform(*config.x, size=x_TN.shape[1:])
        amplitude, phase = waves_T2.T[..., None, None]
        y_TN = amplitude * np.sin(x_TN - phase)
        parts = zip(*(np.split(values, [shape.shots], axis=1) for values in (x_TN, y_TN)), strict=True)
        support, query = (self._set(*map(torch.from_numpy, part)) for part in parts)
        return Task(tickets[0].id, support, query, shape.ways)

    def _set(self, x: Tensor, y: Tensor) -> Batch | Points:
        return Points(x, y, torch.ones(x.shape[:-1], dtype=x.dtype)) if self._config.density else Batch(x, y)
