"""An evaluation as ``jobs.evaluate`` tells it: a run's scores and answers, beside another run's, and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.build import evaluation_plan, source_of
from pipeline.config import Recipe
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.losses import LOSSES
from pipeline.engine.evaluate import EvaluationPlan
from pipeline.engine.statistics import Difference, paired
from pipeline.runs.models import folder_of
from pipeline.runs.paths import absolute
from pipeline.runs.run import RunOptions, evaluate_run, evaluate_tasks
from pipeline.runs.run_folder import validate_folder
from pipeline.runs.tally import tally_of
from pipeline.storage.local import write_whole

KEYS = {"data": "source.path or source.split", "settings": "settings of the source"}
"""What decides a fact of an evaluation, where it is no key of its own."""


def evaluate_pair(
    folder: str | Path, against: str | Path, overrides: Sequence[str], options: RunOptions, tell: Callable[[str], None]
) -> dict[str, Any]:
    """``evaluate_run`` of the first run, and the paired ``difference`` to another on the same tasks.

    Args:
        folder: the run, A.
        against: the other run, B.
        overrides: for both.
        options: where the work is done.
        tell: receives what workers wait for.

    Returns:
        What ``evaluate_run`` returns of A, and ``difference``: the mean over tasks of A's judged metric less B's, half
        its 95% interval, and which run is better, if the interval excludes 0.

    Raises:
        ConfigError: the two would be evaluated on other tasks, or judged by other metrics.
    """
    _require_same_tasks(folder, against, overrides)
    (first, ours), (second, theirs) = (evaluate_tasks(one, overrides, options, tell) for one in (folder, against))
    metric = first["evaluation"]["metric"]
    difference = paired(ours.metrics[metric][:, -1], theirs.metrics[metric][:, -1])
    runs = {"run": str(folder), "against": str(against)}
    return first | {
        "difference": runs | difference_facts(difference, first["evaluation"], *runs.values()),
        "other": second,
    }


def difference_facts(
    difference: Difference, evaluation: Mapping[str, Any], folder: str, against: str
) -> dict[str, Any]:
    """A difference of the metric that an evaluation is judged by, and which of the two runs is better."""
    higher = (difference.mean > 0) == evaluation["higher_is_better"]
    return {
        "metric": evaluation["metric"],
        "unit": evaluation["unit"],
        "mean": difference.mean,
        "ci95": difference.half_width,
        "tasks": difference.tasks,
        "better": (folder if higher else against) if difference.shown else None,
    }


def evaluate_and_draw(
    folder: str | Path,
    against: str | Path | None,
    overrides: Sequence[str],
    options: RunOptions,
    tell: Callable[[str], None],
    picture: str | Path | None,
) -> dict[str, Any]:
    """``evaluate_pair``, or ``evaluate_run`` where ``against`` is no run; the reliability diagram goes to ``picture``.

    Raises:
        ConfigError: as those two; or a picture that cannot be written, or of tasks without confidences.
    """
    if picture is not None:
        _require_drawable(folder, overrides, Path(picture))
    if against is None:
        result = evaluate_run(folder, overrides, options, tell)
    else:
        result = evaluate_pair(folder, against, overrides, options, tell)
    if picture is not None:
        _draw(result["calibration"], Path(picture))
    return result


def _draw(calibration: Mapping[str, Any], picture: Path) -> None:
    # matplotlib takes a while to import.
    from pipeline.pictures.canvas import png
    from pipeline.pictures.reliability import reliability

    drawn = png(reliability(calibration))
    try:
        write_whole(picture, lambda file: file.write(drawn))
    except OSError as error:
        raise DataError(
            f"--picture {picture}: cannot be written ({error.strerror or error}); name a file in another folder"
        ) from None


def _recipe_of(run: str | Path, overrides: Sequence[str]) -> Recipe:
    with folder_of(run) as folder:
        return absolute(validate_folder(folder, overrides))


def _require_same_tasks(folder: str | Path, against: str | Path, overrides: Sequence[str]) -> None:
    plans, metrics = [], []
    for one in (folder, against):
        recipe = _recipe_of(one, overrides)
        source = source_of(recipe)
        plans.append(evaluation_plan(recipe, source))
        metrics.append(LOSSES[source.spec().loss].metric)
    ours, theirs = plans
    if ours.hash != theirs.hash:
        raise ConfigError(
            f"--against {against}: would be evaluated on other tasks ({theirs.hash[:12]}) than {folder} "
            f"({ours.hash[:12]}): {_differing(ours, theirs)}; give key=value for what differs, it holds for both"
        )
    if metrics[0] != metrics[1]:
        raise ConfigError(f"--against {against}: is judged by {metrics[1]}, {folder} by {metrics[0]}")


def _differing(ours: EvaluationPlan, theirs: EvaluationPlan) -> str:
    """The facts in which two evaluations differ, with the second's value first."""

    def facts(plan: EvaluationPlan) -> dict[str, object]:
        shape = {f"task.eval.{key}": value for key, value in asdict(plan.shape).items()}
        evaluation = {f"evaluation.{key}": getattr(plan, key) for key in ("split", "seed", "tasks")}
        content, slash, split_set = plan.data.partition("/")
        return (
            evaluation | shape | {KEYS["data"]: content[:8] + slash + split_set, KEYS["settings"]: dict(plan.settings)}
        )

    other = facts(theirs)
    return ", ".join(f"{key} {other[key]} for {value}" for key, value in facts(ours).items() if other[key] != value)


def _require_drawable(folder: str | Path, overrides: Sequence[str], picture: Path) -> None:
    if picture.suffix != ".png" or not picture.parent.is_dir():
        raise ConfigError(f"--picture {picture}: expected the name of a .png file in a folder that exists")
    recipe = _recipe_of(folder, overrides)
    if tally_of(recipe, source_of(recipe)) is None:
        raise ConfigError(f"--picture {picture}: tasks of the source {recipe.source.name} have no confidences to draw")
