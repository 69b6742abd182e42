"""A whole run: dry run, training, the final evaluation and the run's files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.build import Components, build_executor, build_pool, evaluation_plan, plan_of, worker_count
from pipeline.config import Recipe
from pipeline.config.fitted import fitted
from pipeline.core.failures import ConfigError, ResumeError
from pipeline.core.flat import sha256
from pipeline.engine import loop
from pipeline.engine.answers import Tally
from pipeline.engine.durability.checkpoint import read_checkpoint
from pipeline.engine.durability.coordinator import BEST
from pipeline.engine.evaluate import Scores, evaluate
from pipeline.engine.interfaces import Scorer
from pipeline.engine.loop import ProgressListener, TrainResult
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.runs.curves import record_evaluation
from pipeline.runs.dry_run import check_folder, dry_run
from pipeline.runs.end_files import end_files
from pipeline.runs.end_pictures import Ended
from pipeline.runs.evaluation_facts import evaluation_facts, trained_outputs
from pipeline.runs.footprint import sized, weighing
from pipeline.runs.models import folder_of
from pipeline.runs.paths import absolute, output_folder, refuse_relative
from pipeline.runs.run_end import end_early, finished_summary, is_settled
from pipeline.runs.run_folder import newest, other_data, pack, require_origin, validate_folder
from pipeline.runs.scores import scores_file
from pipeline.runs.tally import tally_of
from pipeline.runtime.job import in_ray_job
from pipeline.storage import storage_at
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_word
from pipeline.tracking import uri as tracking_uri
from pipeline.tracking.commit import git_commit
from pipeline.tracking.mlflow_tracker import how_to_open, probe


class RunOptions(NamedTuple):
    """How and where a run is executed. No option changes its result."""

    executor: str = "ray"
    address: str | None = None
    output: str | Path | None = None
    resume: bool = False
    accept_numerics: bool = False
    timeouts: Timeouts = Timeouts()


class RunResult(NamedTuple):
    """A finished run: its folder (or URI), its summary, what could not be sent to MLflow, and each task's scores."""

    folder: Path | str
    summary: dict[str, Any]
    unsent: str | None
    scores: Scores


def train_run(recipe: Recipe, options: RunOptions, listener: ProgressListener) -> RunResult:
    """Train a recipe from its beginning, or from its newest checkpoint with ``resume``.

    Raises:
        PipelineError: the recipe, the data, the cluster or the folder does not allow it; see its message.
        Stopped: a signal asked this process to end; the run is on disk up to its last finished step.
    """
    if in_ray_job():
        refuse_relative(options.output, recipe)
    _require_gpu(recipe, options)
    recipe = sized(fitted(absolute(recipe), listener.note), listener.note)
    folder = output_folder(recipe.name, options.output, resume=options.resume)
    _look_for_tracker(recipe, storage_at(folder), listener)
    components = dry_run(
        recipe, listener.note, weigh=weighing(recipe, options.executor, options.address, listener.note)
    )
    check_folder(recipe, components, storage_at(folder))
    finished = finished_summary(recipe, components.source.fingerprint, storage_at(folder)) if options.resume else None
    if finished is not None and is_settled(recipe, validate_folder(folder), storage_at(folder)):
        return _evaluate_again(recipe, components, folder, finished, options, listener)
    _tell_of_idle_workers(recipe, options, listener)
    started = time.perf_counter()
    executor = build_executor(
        recipe,
        options.executor,
        str(folder),
        options.address,
        options.timeouts,
        accept_numerics=options.accept_numerics,
    )
    with executor.stop.listening():
        try:
            trained = loop.train(executor, plan_of(recipe, components), listener)
            vector = np.array(executor.fetch(trained.theta))
            scores, rows = _final_scores(executor, vector, recipe, components, folder)
            record_evaluation(executor, trained.step, evaluation_plan(recipe, components.source).key, rows)
            wall = time.perf_counter() - started
            summary = _summary(recipe, options, components, trained, vector, rows, executor.numerics, wall)
            if finished is not None:  # the speeds that were measured in training are kept
                summary = finished | {"evaluation": summary["evaluation"]}
            ended = Ended(recipe, components, vector, scores, summary, executor.spans, storage_at(folder))
            files = executor.stop.interruptible(lambda: end_files(ended, listener.note))
            files |= scores_file(summary["evaluation"], scores)
            return RunResult(folder, summary, executor.close("FINISHED", files), scores)
        except (ConfigError, ResumeError):  # refused: the run in that folder is unchanged, in MLflow too
            executor.close("FAILED", {})
            raise
        except BaseException as error:
            end_early(executor, error, recipe, storage_at(folder))
            raise


def _require_gpu(recipe: Recipe, options: RunOptions) -> None:
    """Raises ``ConfigError`` where a GPU is asked for and this process, which does the work, sees none."""
    if options.executor == "serial" and recipe.workers.gpus and not torch.cuda.is_available():
        raise ConfigError(
            f"workers.gpus: {recipe.workers.gpus:g} with --executor serial, and this process sees no GPU; use "
            "workers.gpus=0, or --executor ray on nodes that have GPUs"
        )


def _tell_of_idle_workers(recipe: Recipe, options: RunOptions, listener: ProgressListener) -> None:
    count = worker_count(recipe, recipe.tasks_at_one_theta)
    if options.executor == "ray" and recipe.workers.count > count:
        listener.note(
            f"{count} of {recipe.workers.count} workers are started: a step has no more chunks; a smaller "
            "chunk_size makes more, and other numbers"
        )


def _look_for_tracker(recipe: Recipe, storage: Storage, listener: ProgressListener) -> None:
    """Raises ``ConfigError`` where MLflow is unreachable. For a run that MLflow already has, only a note is printed."""
    tracked = read_word(storage, "tracked_run")  # read now, so that a damaged file is reported before training
    try:
        probe(recipe.tracking.uri, recipe.tracking.experiment)
    except ConfigError as error:
        if tracked is None:
            raise
        listener.note(f"{error}. The run goes on without it: its metrics wait in the journal")


def where_to_look(ended: RunResult, recipe: Recipe) -> dict[str, str]:
    """The rows that are printed of a finished run: where its folder is, what it did and how to open MLflow."""
    storage = storage_at(ended.folder)
    tracked = read_word(storage, "tracked_run")
    # The recipe as given: the saved one lacks the password that MLflow asks for.
    command, link = how_to_open(absolute(recipe).tracking.uri, tracked)
    rows = {
        "run": storage.where,
        "summary": f"{storage.where}/summary.json",
        "theta sha256": ended.summary["theta_sha256"],
        "trained": "{train_s} s, {tasks_per_s} tasks/s, {wall_s} s in all".format(**ended.summary),
    }
    if ended.unsent is not None:
        rows["not in MLflow"] = f"{ended.unsent}; later: python -m jobs.sync {ended.folder}"
    return rows | tracking_uri.ui_rows(command, link)


def _evaluate_again(
    recipe: Recipe,
    components: Components,
    folder: str | Path,
    finished: dict[str, Any],
    options: RunOptions,
    listener: ProgressListener,
) -> RunResult:
    """The result of a finished run, which is left as it is."""
    listener.note(f"{folder}: this run is finished; it is left as it is, and its evaluation is repeated")
    theta = pack(components.layout, newest(folder)[0])
    pool = build_pool(recipe, options.executor, options.address, options.timeouts, None)
    scores, _ = _scored(pool, recipe, components, theta, folder, listener.note)
    return RunResult(folder, finished, None, scores)


def evaluate_run(
    folder: str | Path, overrides: Sequence[str], options: RunOptions, tell: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Evaluate the last theta of a run (and its best on validation), with other tasks or normalisation if overridden.

    ``folder`` may also be a model in MLflow, as ``pipeline.load`` takes it. ``tell`` receives what workers wait for. Of
    a classification, the answers of the last theta are told too: ``calibration``, and ``classes`` and ``confusions``
    where the source names its classes.

    Raises:
        ConfigError: no run in ``folder``, overrides that change what theta is, or classes that were trained on.
    """
    return evaluate_tasks(folder, overrides, options, tell)[0]


def evaluate_tasks(
    folder: str | Path, overrides: Sequence[str], options: RunOptions, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Scores]:
    """``evaluate_run``, and each task's scores at the last theta."""
    with folder_of(folder) as place:
        return _evaluated(place, overrides, options, tell)


def _evaluated(
    folder: str | Path, overrides: Sequence[str], options: RunOptions, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Scores]:
    recipe = fitted(absolute(validate_folder(folder, overrides)), tell, learn=False)
    outputs = trained_outputs(folder)
    components = dry_run(recipe, learn=False, outputs=outputs)
    named = any(override.startswith("source") for override in overrides)
    checkpoint, note = newest(folder, None if named else components.source.fingerprint)
    vector = pack(components.layout, checkpoint)
    other = other_data(folder, recipe, components.source, checkpoint)
    tally = tally_of(recipe, components.source)
    pool = build_pool(recipe, options.executor, options.address, options.timeouts, outputs)
    scores, rows = _scored(pool, recipe, components, vector, folder, tell, tally)
    if other:
        rows = [row | {"set": getattr(recipe.source, "split", ""), "other_data": other} for row in rows]
    facts = {
        "recipe": recipe.name,
        "step": checkpoint.step,
        "theta_sha256": sha256(torch.from_numpy(vector)),
        "note": note,
        "evaluation": evaluation_facts(recipe, components, rows),
    }
    return facts | (tally.facts() if tally is not None else {}), scores


def _scored(
    pool: WorkerPool,
    recipe: Recipe,
    components: Components,
    vector: np.ndarray,
    folder: str | Path,
    tell: Callable[[str], None],
    tally: Tally | None = None,
) -> tuple[Scores, list[dict[str, Any]]]:
    """Like ``_final_scores``, without writing to a run. The pool is closed."""
    pool.note = tell
    with closing(pool.transport), pool.stop.listening():
        return _final_scores(pool, vector, recipe, components, folder, tally)


def _final_scores(
    scorer: Scorer,
    vector: np.ndarray,
    recipe: Recipe,
    components: Components,
    folder: str | Path,
    tally: Tally | None = None,
) -> tuple[Scores, list[dict[str, Any]]]:
    """Each task's scores at the last theta, and rows of it and of the best on validation.

    ``tally`` receives the answers of the last theta.
    """
    plan = evaluation_plan(recipe, components.source)
    scores = evaluate(scorer, vector, plan, tally)
    rows = [{"theta": "last", **row._asdict()} for row in scores.rows()]
    storage = storage_at(folder)
    if recipe.evaluation.keeps_best and BEST in storage.names(""):
        kept = read_checkpoint(storage, BEST)
        require_origin(folder, BEST, kept)
        best = pack(components.layout, kept)
        rows += [{"theta": "best", **row._asdict()} for row in evaluate(scorer, best, plan).rows()]
    return scores, rows


def _summary(
    recipe: Recipe,
    options: RunOptions,
    components: Components,
    trained: TrainResult,
    vector: np.ndarray,
    rows: Sequence[dict[str, Any]],
    numerics: Mapping[str, str],
    wall: float,
) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "steps": trained.step,
        "tasks_seen": trained.step * recipe.tasks_per_step,
        "theta_sha256": sha256(torch.from_numpy(vector)),
        "tasks_per_s": round(trained.tasks / trained.seconds, 1),
        "train_s": round(trained.seconds, 1),
        "wall_s": round(wall, 1),
        "executor": options.executor,
        "workers": worker_count(recipe, recipe.tasks_at_one_theta) if options.executor == "ray" else 1,
        "device": numerics["device"],
        "cpu": numerics["cpu"],
        "parameters": components.layout.size,
        "git_commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluation": evaluation_facts(recipe, components, rows),
    }
