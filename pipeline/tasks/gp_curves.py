"""Curves drawn from Gaussian processes: the one-dimensional regression of neural processes (arXiv 1807.01622, §4.1).

Each task has a kernel of its own: its length scale and deviation are drawn with it. The noise is in the kernel, so that
the exact posterior of that kernel is the best that any method can answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le

from pipeline.core.effects import OnlyWith
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Points, Task
from pipeline.tasks.points import draw_sizes, padded, require_sizes

Positive = Annotated[float, Gt(0), Le(1e3)]
JITTER = 1e-8
"""Added to a kernel's diagonal, for its factor to exist."""


@dataclass(frozen=True)
class GPCurvesConfig:
    """Bounds of uniform draws, and the sizes of tasks. ``shots`` and ``queries`` are the most points of either set.

    Attributes:
        kernel: How curves vary: ``rbf``, ``matern`` (5/2) or ``periodic``.
        length_scale: Of a task's kernel.
        period: Of a task's periodic kernel.
        deviation: Of a task's curve.
        noise: Deviation of the noise of each value.
        x: Of each point.
        fewest_shots: The fewest support points of a task.
        fewest_queries: The fewest query points of a task.
        points: The most points that both sets of a task have together.
        sizes: Whether the training tasks of a step have sizes of their own, padded, or one size, as published, which is
            faster. Evaluation tasks have sizes of their own.
    """

    kernel: Literal["rbf", "matern", "periodic"] = "rbf"
    length_scale: tuple[Positive, Positive] = (0.1, 0.6)
    period: Annotated[tuple[Positive, Positive], OnlyWith("kernel", ("periodic",))] = (0.1, 0.5)
    deviation: tuple[Positive, Positive] = (0.1, 1.0)
    noise: Positive = 0.02
    x: tuple[Annotated[float, Ge(-1e3), Le(1e3)], Annotated[float, Ge(-1e3), Le(1e3)]] = (-2.0, 2.0)
    fewest_shots: Annotated[int, Ge(0), Le(1 << 12)] = 3
    fewest_queries: Annotated[int, Ge(1), Le(1 << 12)] = 3
    points: Annotated[int, Ge(1), Le(1 << 13)] = 49
    sizes: Literal["step", "task"] = "step"


class Kernel(NamedTuple):
    """A task's covariance function."""

    name: str
    length_scale: float
    period: float
    deviation: float
    noise: float

    def covariance(self, x_N: np.ndarray) -> np.ndarray:
        """[N, N] of noisy values at x."""
        distance = np.abs(x_N[:, None] - x_N[None])
        if self.name == "rbf":
            shape = np.exp(-0.5 * (distance / self.length_scale) ** 2)
        elif self.name == "matern":
            scaled = np.sqrt(5) * distance / self.length_scale
            shape = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
        else:
            shape = np.exp(-2 * (np.sin(np.pi * distance / self.period) / self.length_scale) ** 2)
        return self.deviation**2 * shape + (self.noise**2 + JITTER) * np.eye(len(x_N))


class GPCurves:
    """``Points`` with x and y of shape [N, 1], float64. Every split has the same distribution.

    A task's support set has a random number of points, from ``fewest_shots`` to ``shots``; its query set has at most
    ``queries``, and no more than ``points`` allow.

    Raises:
        ConfigError: bounds in the wrong order, or sizes that no task can have.
    """

    Config: ClassVar[type[GPCurvesConfig]] = GPCurvesConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: GPCurvesConfig, shapes: TaskShapes) -> None:
        for field in ("length_scale", "period", "deviation", "x"):
            low, high = getattr(config, field)
            if low > high:
                raise ConfigError(f"source.{field}: [{low}, {high}], expected the lower bound first")
        self._fewest = TaskShape(1, config.fewest_shots, config.fewest_queries)
        for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
            require_sizes(phase, shape, self._fewest, config.points)
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Points, (1,), 1, "values", "gaussian")

    def sample(self, ticket: Ticket) -> Task[Points]:
        return self.drawn(ticket)[0]

    def drawn(self, ticket: Ticket) -> tuple[Task[Points], Kernel]:
        """A task and the kernel that its curve is drawn from."""
        rng, shape, config = ticket.rng("task"), self._shapes.of(ticket), self._config
        kernel = Kernel(
            config.kernel,
            rng.uniform(*config.length_scale),
            rng.uniform(*config.period),
            rng.uniform(*config.deviation),
            config.noise,
        )
        shared = config.sizes == "step" and ticket.purpose == "train"
        size = ticket.rng("step") if shared else rng
        shots, queries = draw_sizes(size, shape, self._fewest, config.points)
        x = rng.uniform(*config.x, size=shots + queries)
        y = np.linalg.cholesky(kernel.covariance(x)) @ rng.normal(size=len(x))
        (x_N, x_Q), (y_N, y_Q) = (np.split(values[:, None], [shots]) for values in (x, y))
        most = (shots, queries) if shared else (shape.shots, shape.queries)
        return Task(ticket.id, padded(x_N, y_N, most[0]), padded(x_Q, y_Q, most[1])), kernel
