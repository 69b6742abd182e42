"""Comparisons: every method of a protocol trained within one budget and judged on the same tasks.

Methods are trained one at a time. Finished ones are recorded, so the same command continues where it was stopped. The
runs lie in ``runs/compare`` and are children of one MLflow run. Where steps are given, methods with one theta share a
run, in other protocols too: there it is only evaluated, and stays a child of the comparison that trained it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.algorithms import ALGORITHMS
from pipeline.comparison.leaderboard import direction, table
from pipeline.comparison.protocol import Choice, Method, Protocol, read
from pipeline.config import Recipe, file_fields, load
from pipeline.core.failures import ConfigError, InternalError
from pipeline.engine.durability.journal import Journal
from pipeline.engine.evaluate import Row
from pipeline.engine.loop import Enough, ProgressListener
from pipeline.runs import recorded
from pipeline.runs.older import as_first_recorded
from pipeline.runs.parent import DESCRIPTION, held, parent_run
from pipeline.runs.paths import absolute
from pipeline.runs.recorded import Result
from pipeline.runs.run import RunOptions, RunResult, train_run
from pipeline.runs.run_folder import validate_folder
from pipeline.storage import named, storage_at

WARM_UP = 0.3
"""The share of a trial that is not counted, because workers start seconds apart."""
CURVE = 5
"""Points of a training curve, each a mean over the steps since the one before."""


def recipes_of(name: str, protocol: Protocol, only: Collection[str], overrides: Sequence[str]) -> dict[str, Recipe]:
    """The recipe of each method with the protocol's changes, for all methods or those in ``only``.

    Raises:
        ConfigError: the protocol has no such method, a recipe is wrong, or what is to be chosen decides theta.
    """
    unknown = sorted(set(only) - set(protocol.methods))
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: the protocol {name} has {', '.join(protocol.methods)}")
    found = {
        key: load(method.recipe, [*protocol.change, *method.change, *overrides, f"name={key}"])
        for key, method in protocol.methods.items()
        if not only or key in only
    }
    for key, recipe in found.items():
        choice = protocol.methods[key].choose
        if choice is not None and choice.setting not in recipe.adaptation():
            raise ConfigError(
                f"protocol {name}: methods.{key}.choose.setting: {choice.setting} is no setting of an evaluation of "
                f"{recipe.algorithm.name}; what does not decide theta is {', '.join(recipe.adaptation()) or 'nothing'}"
            )
    return found


def compare(
    name: str,
    only: Collection[str],
    overrides: Sequence[str],
    options: RunOptions,
    kept: Path,
    listener: ProgressListener,
    trial_s: float = 15.0,
) -> list[Result]:
    """Train and evaluate the protocol's methods, and record the results in ``kept``. Recorded ones are not repeated.

    A trial of ``trial_s`` seconds of training estimates how many steps fit into a budget of seconds.

    Raises:
        PipelineError: a method cannot be trained; those before it are kept.
    """
    protocol = read(name)
    wanted = recipes_of(name, protocol, only, overrides)
    folder = Path(named(options.output if options.output is not None else "runs/compare")) / Path(name).stem
    done = {one.method: (one.summary["identity"], one.summary["steps"]) for one in recorded.load(kept)}
    budget = {"seconds": str(protocol.seconds), "tasks": str(protocol.tasks)}
    tracking, told = absolute(next(iter(wanted.values()))).tracking, {DESCRIPTION: protocol.about}
    storage = storage_at(folder)
    with held(storage), parent_run(storage, tracking, f"compare {name}", budget, told) as (tracker, parent):
        for key, recipe in wanted.items():
            question = identity(protocol, recipe, protocol.methods[key].choose)
            identity_done, steps_done = done.get(key, ("", 0))
            steps = _steps(protocol, protocol.methods[key], recipe)
            if identity_done == question and steps in (None, steps_done):
                listener.note(f"{key}: done before, {kept / key}.json")
                continue
            listener.note(f"{key}: {recipe.algorithm.name}, normalisation {recipe.normalisation}")
            place = options._replace(output=_place(folder, f"{key}-{question}", recipe, steps))

            def run(*changes: str, key: str = key, steps: int | None = steps, at: RunOptions = place) -> RunResult:
                asked = recipes_of(name, protocol, [key], [*overrides, *changes, f"tracking.parent={parent}"])[key]
                return _train(steps, protocol.seconds or 0.0, asked, at, listener, trial_s)

            changes, choice = _choose(protocol, key, run)
            _result(Path(name).stem, protocol, key, recipe, run(*changes), choice).save(kept)
        found = recorded.load(kept)
        tracker.tag({DESCRIPTION: f"{protocol.about}\n\n{table(found, protocol.columns, protocol.against)}"})
    return found


def identity(protocol: Protocol, recipe: Recipe, choice: Choice | None = None) -> str:
    """The identity of a result: all values that decide it, with those to choose from, except the number of steps that
    fit the budget."""
    found, files = recipe.identity(""), {f"source.{name}" for name in file_fields(recipe.source)}
    judged = {
        key: value
        for key, value in found.free.items()
        if key.split(".")[0] in ("algorithm", "net", "source", "task", "evaluation") and key not in files
    }
    facts = {**found.fixed, **judged, "steps": None, "budget": (protocol.seconds, protocol.tasks)}
    if choice is not None:
        facts["choose"] = choice.model_dump(mode="json")
        facts.pop(choice.setting, None)  # its value in the recipe decides nothing
    return hashlib.sha256(json.dumps(as_first_recorded(facts), sort_keys=True).encode()).hexdigest()[:16]


def _steps(protocol: Protocol, method: Method, recipe: Recipe) -> int | None:
    """The steps that a method takes; None where they depend on how many fit into the budget of seconds."""
    if method.steps is not None or protocol.tasks is None:
        return method.steps
    return -(-protocol.tasks // recipe.tasks_per_step)


def _place(folder: Path, question: str, recipe: Recipe, steps: int | None) -> Path:
    """Where a method's run lies. Methods with one theta share it.

    Where steps follow from a measured speed, or validation tasks chose the best theta, it is the method's own.
    """
    if steps is None or recipe.evaluation.keeps_best:
        return folder / question
    files = {name: getattr(recipe.source, name) for name in file_fields(recipe.source)}
    decides = json.dumps({**recipe.identity("").fixed, **files, "steps": steps}, sort_keys=True)
    return folder.parent / f"{recipe.algorithm.name}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}-{steps}"


def _choose(protocol: Protocol, key: str, run: Callable[..., RunResult]) -> tuple[list[str], dict[str, Any]]:
    """The change that was best on validation tasks, and what each value came to; nothing where there is no choice."""
    choice = protocol.methods[key].choose
    if choice is None:
        return [], {}
    found = {}
    for value in choice.values:
        ended = run("evaluation.split=val", f"{choice.setting}={value}")
        higher = direction(ended.summary["evaluation"], protocol.columns[0])
        found[value] = float(_deciding(protocol, key, ended).mean())
    # A value with which a task diverges is never the best.
    finite = {value: mean if higher else -mean for value, mean in found.items() if np.isfinite(mean)}
    best = max(finite or found, key=lambda value: finite.get(value, 0.0))
    facts = {"setting": choice.setting, "value": best, "validation": [[v, round(m, 6)] for v, m in found.items()]}
    return [f"{choice.setting}={best}"], {"chosen": facts}


def _train(
    steps: int | None, seconds: float, recipe: Recipe, options: RunOptions, listener: ProgressListener, trial_s: float
) -> RunResult:
    """Train the method, or resume a run of it that was stopped."""
    resume = options.output is not None and "recipe.yaml" in storage_at(options.output).names("")
    if resume:
        steps = validate_folder(options.output or "").steps
    elif steps is None:
        steps = max(1, round(_steps_per_second(recipe, options, trial_s) * seconds))
    return train_run(recipe.model_copy(update={"steps": steps}), options._replace(resume=resume), listener)


class _Stopwatch:
    """Ends a run ``seconds`` after its first step and measures its steps per second once all workers have started."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.rate = seconds, 0.0

    def start(self, steps: int, done: int) -> None:
        self._began: float | None = None
        self._since: tuple[float, int] | None = None

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if self._since is None:
            if now - self._began >= WARM_UP * self.seconds:
                self._since = now, step
        elif now - self._began >= self.seconds:
            since, done = self._since
            self.rate = (step - done) / (now - since)
            raise Enough

    def validated(self, step: int, row: Row, best: bool) -> None: ...

    def note(self, text: str) -> None: ...


def _steps_per_second(recipe: Recipe, options: RunOptions, trial_s: float) -> float:
    """The steps that fit the budget, measured in a run that is then deleted."""
    stopwatch = _Stopwatch(trial_s)
    with TemporaryDirectory() as folder:
        tracking = recipe.tracking.model_copy(update={"uri": f"sqlite:///{folder}/mlflow.db", "parent": ""})
        trial = recipe.model_copy(update={"steps": 100_000, "tracking": tracking})
        try:
            train_run(trial, options._replace(output=Path(folder, "trial")), stopwatch)
        except Enough:
            return stopwatch.rate
    raise InternalError(f"{recipe.name}: {trial.steps} steps took less than {trial_s} s")


def _deciding(protocol: Protocol, key: str, ended: RunResult) -> np.ndarray:
    """Each task's score in the first column."""
    metric, _, steps = protocol.columns[0].partition("@")
    points = [str(point) for point in ended.scores.points]
    if metric not in ended.scores.metrics or (steps and steps not in points):
        known = f"{', '.join(ended.scores.metrics)}, after {', '.join(points)} inner steps"
        raise ConfigError(f"columns: {protocol.columns[0]!r} is not measured of {key}; it has {known}")
    return ended.scores.metrics[metric][:, points.index(steps) if steps else -1]


def _result(
    name: str, protocol: Protocol, key: str, recipe: Recipe, ended: RunResult, choice: Mapping[str, Any]
) -> Result:
    facts = {
        "recipe": recipe.name,
        "identity": identity(protocol, recipe, protocol.methods[key].choose),
        **choice,
        "scores": [round(float(value), 6) for value in _deciding(protocol, key, ended)],
        "curve": _curve(str(ended.folder), protocol.columns[0].partition("@")[0]),
    }
    algorithm, published = recipe.algorithm.name, protocol.methods[key].published
    return Result(name, key, algorithm, ALGORITHMS[algorithm].about.family, published, ended.summary | facts)


def _curve(folder: str, metric: str) -> list[tuple[int, float]]:
    """The training metric over the steps. It shows whether time was the limit. Training has no judged metrics."""
    journal = Journal(storage_at(folder))
    journal.load()
    entries = [entry for entry in journal.since(0) if entry.kind == "train"]
    name = f"train/{metric}"
    found = np.array([(entry.step, entry.metrics[name]) for entry in entries if name in entry.metrics])
    pieces = [piece for piece in np.array_split(found, CURVE) if len(piece)]
    return [(int(piece[-1, 0]), round(float(piece[:, 1].mean()), 4)) for piece in pieces]
