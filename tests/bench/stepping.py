"""A run on Ray with a coordinator of our choice, of which every step's rate is noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.build import BuildWorker, build_components, plan_of
from pipeline.config import Recipe
from pipeline.engine import loop
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.quiet_runs import on_ray


class Rates:
    """A listener that keeps 1 / ``time/step_s`` of every step, the number that the journal has too."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._rates: list[float] = []

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        self._rates.append(tasks_per_s / self.recipe.tasks_per_step)

    def validated(self, *validation: object) -> None: ...

    def note(self, text: str) -> None: ...

    def array(self) -> np.ndarray:
        """In steps/s; that of step number n is at n - 1."""
        return np.array(self._rates)


def train(
    recipe: Recipe, coordinator: Callable[[], Any], listener: loop.ProgressListener, worker: Any = None
) -> str | None:
    """All steps of a recipe, on its own workers or others; returns what could not be sent to its tracker."""
    plan = plan_of(recipe, build_components(recipe))
    worker = worker or BuildWorker(recipe.model_dump_json())
    executor = on_ray(worker, coordinator, recipe.workers.count, Timeouts())
    try:
        loop.train(executor, plan, listener)
    except BaseException:
        executor.close("FAILED", {})
        raise
    return executor.close("FINISHED", {})
