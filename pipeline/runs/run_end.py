"""Ends a run before its last step, and recognises a run that has ended already."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from pipeline.config import Recipe
from pipeline.core.failures import FencedError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.durability.journal import Journal
from pipeline.engine.interfaces import Executor, Status
from pipeline.engine.loop import Enough
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_word
from pipeline.tracking.run_ender import RunEnder, has_finished

JUDGED = ("algorithm", "net", "source", "task", "evaluation", "steps")
"""The values that decide a finished run's evaluation, among those that a resume may change."""


def end_early(executor: Executor, error: BaseException, recipe: Recipe, storage: Storage) -> None:
    """End a run after ``error``, and add to the error what was kept.

    Raises:
        FencedError: the error is a ``StorageError`` that came of another process's taking over the run.
    """
    status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    if isinstance(error, Enough):
        status = "FINISHED"
    try:
        for note in _end(executor, status, recipe, storage):
            error.add_note(note)
    except FencedError as fenced:
        if isinstance(error, StorageError):
            raise fenced from error
        if not isinstance(error, FencedError):
            error.add_note(str(fenced))


def _end(executor: Executor, status: Status, recipe: Recipe, storage: Storage) -> Iterator[str]:
    """End the run on disk and in MLflow, through the coordinator or from this process. Yields what was kept.

    Raises:
        FencedError: another process has taken over the run, and with it the MLflow run.
    """
    tracked = read_word(storage, "tracked_run")
    ender = None
    if tracked is not None:
        ender = RunEnder(recipe.tracking.uri, recipe.tracking.experiment, tracked)
    problem = executor.close(status, {})
    # Each parameter actor of this run has its own epoch. A newer epoch belongs to another process.
    newest = storage.names("epochs")[-1:]
    if problem is not None and executor.epoch and newest > [executor.epoch]:
        raise FencedError(f"{storage.where}: this run was taken over by another process, with its MLflow run")
    if problem is not None and ender is not None:
        problem = ender.end(status)
        if problem is not None:
            yield f"MLflow still shows the run as RUNNING: {problem}"
    if status == "KILLED":
        steps = Checkpoints(storage, 1).steps()
        yield (
            f"step {steps[-1] if steps else 0} is kept; to go on, add --resume --output {storage.where} "
            "to the same command (jobs.compare goes on without)"
        )


def finished_summary(recipe: Recipe, data: str, storage: Storage) -> dict[str, Any] | None:
    """The summary of a closed run that took all steps of the recipe; None for every other run.

    ``data`` is the source's fingerprint. A recipe that may not resume the run has not finished it.
    """
    text = storage.read("summary.json")
    checkpoint, _ = Checkpoints(storage, 1).newest()
    if text is None or checkpoint is None or checkpoint.step != recipe.steps:
        return None
    with closing(Journal(storage)) as journal:
        journal.load()
        if next(reversed(journal.newest), None) != "FINISHED":
            return None
    if not recipe.identity(data).is_of(checkpoint.metadata["identity"]):
        return None
    try:
        summary: dict[str, Any] = json.loads(text)
    except ValueError as error:
        logging.getLogger(__name__).info("%s/summary.json: is no JSON (%s); it is written anew", storage.where, error)
        return None
    return summary


def is_settled(recipe: Recipe, before: Recipe, storage: Storage) -> bool:
    """Whether a finished run is complete: it had the evaluation that the recipe asks for, and MLflow has its end."""
    now, then = recipe.identity("").free, before.identity("").free
    if any(now.get(key) != then.get(key) for key in {*now, *then} if key.split(".")[0] in JUDGED):
        return False
    tracked = read_word(storage, "tracked_run")
    return tracked is not None and has_finished(recipe.tracking.uri, tracked)
