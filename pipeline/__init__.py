"""metafleet: distributed, task-parallel meta-training.

>>> import pipeline
>>> run = pipeline.train("sinusoid_maml", ["steps=100"])            # doctest: +SKIP
>>> learner = pipeline.load(run.folder)                             # doctest: +SKIP
>>> learner.adapt(support_x, support_y).predict(x)                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.types import MetaParams, Score
    from pipeline.runs.run import RunResult
    from pipeline.serving.learner import Learner

__version__ = "0.1.0"


def train(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    executor: str = "serial",
    address: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
) -> RunResult:
    """Train a packaged recipe or a YAML file; the same as ``python -m jobs.train``.

    Returns the run's folder and summary. Raises ``PipelineError`` with one line that says what to change.
    """
    from pipeline.config import load as load_recipe
    from pipeline.runs.report import Progress
    from pipeline.runs.run import RunOptions, train_run

    options = RunOptions(executor, address, output, resume)
    with closing(Progress()) as progress:
        return train_run(load_recipe(recipe, overrides), options, progress)


def load(folder: str | Path, *, normalisation: str | None = None) -> Learner:
    """The learner of a finished (or interrupted) run: ``adapt`` it to a support set, then ``predict``.

    ``normalisation`` answers under another mode than the run's. Raises ``ConfigError`` for a transductive run unless
    that mode is named: its answer for a row depends on the other rows.
    """
    from pipeline.runs.run_folder import load_learner

    return load_learner(folder, normalisation)


def replay(folder: str | Path, step: int, number: int) -> tuple[MetaParams, Score]:
    """Learn one training task of a run again, at its newest theta, in this process: to look into a task that failed."""
    from pipeline.runs.run_folder import replay_task

    return replay_task(folder, step, number)
