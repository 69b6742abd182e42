"""Sine waves of random amplitude and phase: the regression that MAML introduced (arXiv 1703.03400, §5.1).

With the published ranges the constant answer 0 has a mean squared error of 4.25167. The best answer without adaptation,
-1.6234 cos x, has 3.00567. A method that is better before adaptation has seen the query set.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_support
from pipeline.core.types import Batch, Task

Amplitude = Annotated[float, Gt(0), Le(1e3)]
Phase = Annotated[float, Ge(-2 * math.pi), Le(2 * math.pi)]
Input = Annotated[float, Ge(-1e3), Le(1e3)]


@dataclass(frozen=True)
class SinusoidConfig:
    """Bounds of uniform draws.

    Attributes:
        amplitude: Of a task's wave.
        phase: Of a task's wave, in radians.
        x: Of each example's input.
    """

    amplitude: tuple[Amplitude, Amplitude] = (0.1, 5.0)
    phase: tuple[Phase, Phase] = (0.0, math.pi)
    x: tuple[Input, Input] = (-5.0, 5.0)


class Sinusoid:
    """y = A sin(x - phase) without noise; ``x`` and ``y`` are float64 [N, 1]. Every split has the same distribution.

    Raises:
        ConfigError: a range is empty, or the shape of a task asks for ways, or for no shots.
    """

    Config: ClassVar[type[SinusoidConfig]] = SinusoidConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: SinusoidConfig, shapes: TaskShapes) -> None:
        ranges: list[tuple[str, float, float]] = [
            (field.name, *getattr(config, field.name)) for field in fields(config)
        ]
        for name, low, high in ranges:
            if not low < high:
                raise ConfigError(f"source.{name}: ({low}, {high}) is empty; the first bound must be below the second")
        require_support(shapes)
        for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
            if shape.ways != 1:
                raise ConfigError(f"task.{phase}.ways: {shape.ways}, but a regression task has one way; set it to 1")
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(ranges).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Batch, (1,), 1, "values", "mean_squared_error")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        """Draws amplitude and phase, then the support set, then the query set, whose size thus changes nothing before
        it."""
        rng, shape = ticket.rng("task"), self._shapes.of(ticket)
        amplitude, phase = rng.uniform(*self._config.amplitude), rng.uniform(*self._config.phase)
        x = rng.uniform(*self._config.x, size=(shape.shots + shape.queries, 1))
        y = amplitude * np.sin(x - phase)
        x_all, y_all, cut = torch.from_numpy(x), torch.from_numpy(y), shape.shots
        return Task(ticket.id, Batch(x_all[:cut], y_all[:cut]), Batch(x_all[cut:], y_all[cut:]), shape.ways)
