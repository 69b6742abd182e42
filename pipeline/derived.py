"""What follows from a recipe and its data: when to validate, and what a tracker shows of the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.core.failures import DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskSource
from pipeline.engine.interfaces import DataSet

VALIDATIONS, VALIDATED, WORK, FEWEST = 20, 0.05, 0.1, 20
"""Of ``validate_every: auto``: how many validations there are at most, which share of the training tasks and of their
work theirs are at most, and the fewest tasks of one."""


def validations(recipe: Recipe, source: TaskSource[Any], work: float) -> tuple[int, int]:
    """Outer steps between two validations, 0 for none, and the tasks of one. The recipe decides, never a timing.

    ``work`` is that of scoring a task, in tasks that are learnt from: 50 inner steps at test are ten times five.
    """
    wanted = recipe.evaluation
    if wanted.validate_every != "auto":
        return wanted.validate_every, wanted.validation_tasks
    most = int(WORK / max(work, WORK / VALIDATED) * recipe.steps * recipe.tasks_per_step)
    tasks = min(wanted.validation_tasks, wanted.tasks, max(FEWEST, most // VALIDATIONS))
    count = min(VALIDATIONS, recipe.steps, most // tasks)
    if not count or "val" not in source.splits:
        return 0, tasks
    try:
        source.sample(Ticket(wanted.seed, "evaluate", "val", 0, 0))
    except DataError:  # the split is too small for the tasks
        return 0, tasks
    return -(-recipe.steps // count), tasks


def data_set(recipe: Recipe, fingerprint: str, counts: Mapping[str, Mapping[str, int]]) -> DataSet:
    """What a run's tasks are drawn from: ``counts`` says how much there is of each split, where that is known."""
    path, split_set = getattr(recipe.source, "path", ""), getattr(recipe.source, "split", "")
    name = " ".join(filter(None, [recipe.source.name, Path(path).name, split_set]))
    return DataSet(name, fingerprint, path, {"source": recipe.source.model_dump(mode="json"), "splits": dict(counts)})
