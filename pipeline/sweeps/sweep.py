"""A sweep: children trained one after the other on one cluster, under one MLflow run, and judged on validation tasks.

Test tasks are used once, at the end, and by the best child alone. Each child that has ended is a file in the sweep's
folder, so that a sweep that was killed goes on with the child that was interrupted, at its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.failures import PipelineError
from pipeline.runs.dry_run import dry_run
from pipeline.runs.parent import held, parent_run
from pipeline.runs.paths import refuse_relative
from pipeline.runs.run import RunOptions, evaluate_run
from pipeline.runs.shared_cluster import shared_cluster
from pipeline.runtime.job import in_ray_job
from pipeline.storage import storage_at
from pipeline.storage.interface import Storage
from pipeline.sweeps import children
from pipeline.sweeps.board import Board
from pipeline.sweeps.children import Child, Judge, best_of
from pipeline.sweeps.request import Prepared, Request, prepare, sweep_folder
from pipeline.sweeps.search import by_tpe
from pipeline.sweeps.training import judge_of, train_child
from pipeline.tracking.mlflow_tracker import probe

TEST = "test.json"
"""The file of the best child's evaluation."""


class SweepResult(NamedTuple):
    """A sweep that has ended: its folder, its children, the metric, the best child and that one's evaluation."""

    folder: Path | str
    children: list[Child]
    judge: Judge
    best: Child | None
    evaluation: dict[str, Any]
    command: str
    prepared: Prepared


def sweep(request: Request, options: RunOptions, tell: Callable[[str], None]) -> SweepResult:
    """Train all children, or go on with ``options.resume``, and evaluate the best. ``tell`` receives a line for each.

    Raises:
        ConfigError: a child's values are refused, before anything starts; MLflow or the folder cannot be written.
        PipelineError: something that is no child's fault, such as a cluster that is lost; ``--resume`` goes on.
        Stopped: a signal asked this process to end.
    """
    folder = sweep_folder(request.recipe, options)
    storage = storage_at(folder)
    prepared = prepare(request, storage)
    if in_ray_job():
        refuse_relative(options.output, prepared.recipe)
    tracking, title = prepared.recipe.tracking, f"sweep {prepared.recipe.name}"
    probe(tracking.uri, tracking.experiment)
    judge = judge_of(prepared.judged(prepared.recipe), dry_run(prepared.judged(prepared.recipe)))
    with held(storage), _resumable(storage.where), shared_cluster([prepared.recipe], options):
        prepared.save(storage)
        with parent_run(storage, tracking, title, prepared.params(), {}) as (tracker, parent):
            board = Board(tracker, prepared, judge)
            ended = _all(prepared, judge, options._replace(output=folder), storage, parent, board, tell)
            best = best_of(ended, judge)
            evaluation = _evaluated(best, prepared, options, storage, tell)
            command = "" if best is None else prepared.command(best.values)
            board.close(ended, best, evaluation, command)
    return SweepResult(folder, ended, judge, best, evaluation, command, prepared)


@contextmanager
def _resumable(where: str) -> Iterator[None]:
    """Add to an error how the sweep goes on, in place of how the child's run alone would."""
    try:
        yield
    except (PipelineError, KeyboardInterrupt) as error:
        others = [note for note in getattr(error, "__notes__", []) if "--resume" not in note]
        error.__notes__ = [*others, f"to go on, add --resume --output {where} to the same command"]
        raise


def _all(
    prepared: Prepared,
    judge: Judge,
    options: RunOptions,
    storage: Storage,
    parent: str,
    board: Board,
    tell: Callable[[str], None],
) -> list[Child]:
    """All children, by number. Those that have ended before are not trained again."""
    before = {one.number: one for one in children.load(storage)}
    if before:
        tell(f"{len(before)} of {prepared.total} children ended before; they are not trained again")
    axes, seed = prepared.space.axes, prepared.request.seed or 0
    propose = None if prepared.known else by_tpe(axes, prepared.total, seed, judge)
    ended: list[Child] = []
    for number in range(1, prepared.total + 1):
        child = before.get(number)
        if child is None:
            values = prepared.known[number - 1] if propose is None else propose(ended)
            child = train_child(prepared, judge, number, values, ended, options, parent, tell)
            child.save(storage)
        ended.append(child)
        if number not in before:
            board.add(ended)
            tell(board.line(ended))
    return ended


def _evaluated(
    best: Child | None, prepared: Prepared, options: RunOptions, storage: Storage, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The best child's evaluation on the recipe's own tasks, once for a sweep."""
    if best is None:
        return {}
    known = json.loads(storage.read(TEST) or b"{}")
    if known.get("child") == best.number:
        return dict(known["evaluation"])
    split = prepared.recipe.evaluation.split
    found = evaluate_run(
        prepared.child_folder(storage.where, best.number), [f"evaluation.split={split}"], options, tell
    )
    evaluation: dict[str, Any] = found["evaluation"]
    storage.write(TEST, (json.dumps({"child": best.number, "evaluation": evaluation}, indent=2) + "\n").encode())
    return evaluation
