"""Registers the model of a run, and decides whether it becomes the champion of its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.config.sections import Tracking
from pipeline.core.failures import ConfigError
from pipeline.engine.durability.served import served_files
from pipeline.engine.statistics import interval, paired
from pipeline.runs.run_folder import validate_folder
from pipeline.runs.scores import TaskScores, read_scores
from pipeline.serving.task import SCORES, SERVED, TASK
from pipeline.storage import storage_at
from pipeline.storage.texts import read_word
from pipeline.tracking.model import log_model
from pipeline.tracking.registry import Registry
from pipeline.tracking.uri import is_model_uri


class Registered(NamedTuple):
    """A new version of a registered model, whether it is the champion now, and why in words."""

    name: str
    version: str
    champion: bool
    why: str


def register_run(run: str, name: str) -> Registered:
    """Register the model of a run under ``name``, in the MLflow that has the run.

    It becomes the champion as the first version, or where it is better than the present champion on the same tasks:
    the 95% interval of the paired difference excludes 0.

    Args:
        run: a run's folder or its URI; or the id of a run or a model's URI in MLflow at MLFLOW_TRACKING_URI.
        name: of the registered model.

    Raises:
        ConfigError: there is no such run, it has no model, or its evaluation is of other tasks than the champion's;
            nothing is registered.
    """
    if not name or set(name) & set("/:@'\"%") or not name.isprintable():
        raise ConfigError(f"--as: {name!r}; expected the name of a model, without / : @ % and quotation marks")
    registry, model_id = _logged(run)
    recipe, scores = _measured(registry, model_id)
    before = registry.champion(name)
    if before is None:
        champion, why = True, f"{_shown(scores)}: the first version of {name}, so it is the champion"
    else:
        champion, why = _compared(scores, _measured(registry, registry.model_of(before))[1], f"{name}/{before.version}")
    version = registry.register(name, model_id, _tags(recipe, scores))
    if champion:
        registry.make_champion(name, version)
    return Registered(name, version, champion, why)


def _logged(run: str) -> tuple[Registry, str]:
    """Where the run is in MLflow, and its logged model. A run's folder that has none in MLflow is logged now."""
    if is_model_uri(run):
        registry = Registry(Tracking().uri)
        return registry, registry.model_id(run)
    storage = storage_at(run)
    if "recipe.yaml" not in storage.names(""):
        if len(run) != 32 or set(run) - set("0123456789abcdef"):
            raise ConfigError(f"{run}: is neither the folder of a run, nor the id of a run or a model's URI in MLflow")
        registry = Registry(Tracking().uri)
        return registry, registry.model_of_run(run)
    recipe, tracked = validate_folder(run), read_word(storage, "tracked_run")
    if tracked is None:
        raise ConfigError(f"{run}: MLflow has not got this run; send it with `python -m jobs.sync {run}`")
    registry, files = Registry(recipe.tracking.uri), served_files(storage, SERVED)
    if TASK not in files:
        raise ConfigError(f"{run}: has no theta or no {TASK}, so no model can be made of it; end it with --resume")
    with registry.errors(f"run {tracked}"):
        return registry, log_model(registry.client, tracked, recipe.name, files, {}).model_id


def _measured(registry: Registry, model_id: str) -> tuple[str, TaskScores]:
    """The name of a logged model's recipe, and its scores. Raises ``ConfigError`` where it has none."""
    with registry.files(model_id) as folder:
        path = Path(folder, SCORES)
        if not path.exists():
            raise ConfigError(
                f"models:/{model_id}: its run has no {SCORES}, which runs of this version write at their end, so it "
                "cannot be compared; train it again"
            )
        return validate_folder(folder).name, read_scores(path.read_bytes(), f"models:/{model_id}/{SCORES}")


def _compared(new: TaskScores, old: TaskScores, champion: str) -> tuple[bool, str]:
    """Whether ``new`` is better than the champion, and why. Raises ``ConfigError`` where they cannot be compared."""
    keys = [key for key in ("evaluation", "metric") if getattr(new, key) != getattr(old, key)]
    if keys or len(new.values) != len(old.values):
        unlike = ", ".join(f"{key} {getattr(old, key)} for {getattr(new, key)}" for key in keys)
        raise ConfigError(
            f"models:/{champion}: the champion was evaluated on other tasks than this run ({unlike}); evaluate both "
            "with the same data, source.split, task.eval and evaluation, or choose another name"
        )
    sign = 1 if new.higher_is_better else -1
    difference, half, _ = paired(new.values, old.values)
    mean = sign * difference
    better = mean > half
    said = (
        f"{_shown(new)}; the champion {champion} has {_shown(old)} on the same tasks; paired difference "
        f"{_value(difference, new.unit, signed=True)} ± {_value(half, new.unit)}"
    )
    if better:
        return True, f"{said}: better, so it is the champion"
    verdict = "worse" if mean < -half else "its 95% interval includes 0"
    return False, f"{said}: {verdict}, so {champion} stays the champion"


def _tags(recipe: str, scores: TaskScores) -> Mapping[str, str]:
    mean, half = interval(scores.values)
    return {
        "recipe": recipe,
        "evaluation": scores.evaluation,
        "split": scores.split,
        "tasks": str(len(scores.values)),
        "normalisation": scores.normalisation,
        scores.metric: f"{_value(mean, scores.unit)} ± {_value(half, scores.unit)}",
    }


def _shown(scores: TaskScores) -> str:
    mean, half = interval(scores.values)
    return (
        f"{scores.metric} {_value(mean, scores.unit)} ± {_value(half, scores.unit)} ({len(scores.values)} tasks of the "
        f"{scores.split} split, normalisation {scores.normalisation}, evaluation {scores.evaluation})"
    )


def _value(value: float, unit: str, *, signed: bool = False) -> str:
    plus = "+" if signed else ""
    return f"{value:{plus}.2%}" if unit == "share" else f"{value:{plus}.4f}"
