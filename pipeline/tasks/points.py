"""Sets of points of unequal size: how many a task has, and their padding."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.source import TaskShape
from pipeline.core.types import Points


def require_sizes(phase: str, shape: TaskShape, fewest: TaskShape, points: int) -> None:
    """Raise ``ConfigError`` where no task has these sizes.

    Args:
        phase: ``train`` or ``eval``, as in the recipe.
        shape: the most points of either set.
        fewest: the fewest points of either set.
        points: the most points of both sets together.
    """
    if shape.ways != 1:
        raise ConfigError(f"task.{phase}.ways: {shape.ways}, but a set of points has no classes; set it to 1")
    for field in ("shots", "queries"):
        most, least = getattr(shape, field), getattr(fewest, field)
        if most < least:
            raise ConfigError(
                f"task.{phase}.{field}: {most}, but source.fewest_{field} is {least}; {field} is the most points of a "
                "set, so raise it"
            )
    if points < shape.shots + fewest.queries:
        raise ConfigError(
            f"source.points: {points}, but task.{phase}.shots and source.fewest_queries may take "
            f"{shape.shots + fewest.queries} together; raise it"
        )


def draw_sizes(rng: np.random.Generator, shape: TaskShape, fewest: TaskShape, points: int) -> tuple[int, int]:
    """The numbers of support and query points, drawn uniformly within the bounds of ``require_sizes``."""
    shots = int(rng.integers(fewest.shots, shape.shots + 1))
    return shots, int(rng.integers(fewest.queries, min(shape.queries, points - shots) + 1))


def padded(x: np.ndarray, y: np.ndarray, size: int) -> Points:
    """The points x [N, inputs] and y [N, outputs], with zeros up to ``size``."""
    x_all, y_all, mask = np.zeros((size, x.shape[1])), np.zeros((size, y.shape[1])), np.zeros(size)
    x_all[: len(x)], y_all[: len(x)], mask[: len(x)] = x, y, 1.0
    return Points(*map(torch.from_numpy, (x_all, y_all, mask)))
