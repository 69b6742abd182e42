"""One child of a sweep: trained, or resumed where it was interrupted, and judged on validation tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.build import Components, evaluation_plan
from pipeline.config import Recipe
from pipeline.core.failures import ConfigError, DataError, NonFiniteError, PipelineError, PoisonError, TaskError
from pipeline.core.losses import LOSSES
from pipeline.engine.durability.journal import last_step
from pipeline.engine.evaluate import Row
from pipeline.engine.loop import Enough
from pipeline.engine.statistics import interval
from pipeline.runs.dry_run import dry_run
from pipeline.runs.run import RunOptions, train_run
from pipeline.storage import storage_at
from pipeline.storage.texts import read_word
from pipeline.sweeps.children import Child, Judge, State, curve_of
from pipeline.sweeps.early_stop import behind
from pipeline.sweeps.request import Prepared
from pipeline.sweeps.space import Values
from pipeline.tracking.mlflow_tracker import MLflowTracker, probe

ITS_FAULT = (NonFiniteError, TaskError, PoisonError)
"""Errors of a training that come of a child's values. Others, such as a full disk, would befall the next child too."""


class _Ended(NamedTuple):
    state: State
    score: float | None = None
    ci95: float | None = None
    reason: str = ""


class _Listener:
    """Passes notes on, and ends a child that is behind the earlier ones."""

    def __init__(self, prepared: Prepared, judge: Judge, earlier: Sequence[Child], tell: Callable[[str], None]) -> None:
        self.stop, self.judge, self.earlier, self.note = prepared.request.stop, judge, earlier, tell
        self.steps = 0
        self.last: tuple[float | None, float | None] = None, None
        self.reason = ""

    def start(self, steps: int, done: int) -> None:
        self.steps = steps

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None: ...

    def validated(self, step: int, row: Row, best: bool) -> None:
        self.last = _numbers(row.mean, row.ci95)
        if self.stop:
            self.reason = behind(step, self.steps, row.mean, self.earlier, self.judge)
        if self.reason:
            raise Enough


def judge_of(recipe: Recipe, components: Components) -> Judge:
    """The metric and the validation tasks of a recipe."""
    loss = LOSSES[components.source.spec().loss]
    plan = evaluation_plan(recipe, components.source)
    return Judge(loss.metric, loss.higher_is_better, loss.unit, plan.hash)


def train_child(
    prepared: Prepared,
    judge: Judge,
    number: int,
    values: Values,
    earlier: Sequence[Child],
    options: RunOptions,
    parent: str,
    tell: Callable[[str], None],
) -> Child:
    """The child after its end. ``options.output`` is the sweep's folder.

    Raises:
        PipelineError: something that is no fault of the child's values.
    """
    began = time.perf_counter()
    folder = prepared.child_folder(options.output or "", number)
    tracking = prepared.recipe.tracking
    probe(tracking.uri, tracking.experiment)  # a child that MLflow cannot take has no fault
    listener = _Listener(prepared, judge, earlier, tell)
    recipe, ended = _tried(prepared, judge, number, values, parent)
    if recipe is not None:
        ended = _trained(recipe, judge, options._replace(output=folder), listener)
    storage = storage_at(folder)
    run = read_word(storage, "tracked_run") or ""
    if run:
        facts = {"sweep.child": str(number), "sweep.state": ended.state, "sweep.reason": ended.reason}
        MLflowTracker(tracking.uri, tracking.experiment, run).tag({key: text for key, text in facts.items() if text})
    return Child(
        number,
        values,
        ended.state,
        ended.score,
        ended.ci95,
        last_step(storage) if run else 0,
        curve_of(folder, judge.metric) if run else (),
        round(time.perf_counter() - began, 1),
        run,
        time.time_ns() // 1_000_000,
        ended.reason,
    )


def _tried(prepared: Prepared, judge: Judge, number: int, values: Values, parent: str) -> tuple[Recipe | None, _Ended]:
    """The recipe of a child whose dry run succeeds; or none, and why."""
    try:
        recipe = prepared.child(number, values, parent)
        found = judge_of(recipe, dry_run(recipe))
        if found != judge:
            what = "by another metric" if found.metric != judge.metric else "on other validation tasks"
            raise ConfigError(f"it would be judged {what} than the other children")
    except (ConfigError, DataError, *ITS_FAULT) as error:
        return None, _failed(error)
    return recipe, _failed()


def _trained(recipe: Recipe, judge: Judge, options: RunOptions, listener: _Listener) -> _Ended:
    begun = "recipe.yaml" in storage_at(options.output or "").names("")
    try:
        result = train_run(recipe, options._replace(resume=begun), listener)
    except Enough as enough:
        for note in getattr(enough, "__notes__", []):
            listener.note(note)
        return _Ended("stopped", *listener.last, listener.reason)
    except ITS_FAULT as error:
        return _failed(error)
    if result.unsent is not None:
        listener.note(f"{recipe.name}: not in MLflow: {result.unsent}; later: python -m jobs.sync {result.folder}")
    mean, half = interval(result.scores.metrics[judge.metric][:, -1])
    if not math.isfinite(mean):
        return _Ended("failed", reason=f"{judge.metric} of its last theta on validation tasks is {mean}")
    return _Ended("finished", *_numbers(mean, half))


def _numbers(mean: float, half: float) -> tuple[float | None, float | None]:
    """JSON has no nan."""
    return (mean if math.isfinite(mean) else None), (half if math.isfinite(half) else None)


def _failed(error: PipelineError | None = None) -> _Ended:
    return _Ended("failed", reason="" if error is None else f"{type(error).__name__}: {error}")
