"""metafleet: distributed, task-parallel meta-training.

>>> import pipeline
>>> run = pipeline.train("sinusoid_maml", ["steps=100"])            # doctest: +SKIP
>>> learner = pipeline.load(run.folder)                             # doctest: +SKIP
>>> learner.adapt(support_x, support_y).predict(x)                  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.types import MetaParams, Score
    from pipeline.runs.run import RunResult
    from pipeline.serving.learner import Learner

__version__ = "0.1.0"

if sys.platform == "win32":
    raise ImportError("metafleet runs on Linux and macOS, and on Windows inside WSL 2: it locks files with fcntl")

_SET: dict[str, str] = {}
"""Environment variables that MLflow and Ray read and that an earlier call has set, here or inside them."""


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Leave the caller's torch threads, and the environment variables of MLflow and Ray, as they were."""
    import torch

    threads, before = torch.get_num_threads(), _variables()
    for name, value in _SET.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        after = _variables()
        _SET.update((name, value) for name, value in after.items() if before.get(name) != value)
        for name in after.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "RAY_"))}


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
    with _as_it_was():
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
    with _as_it_was():
        from pipeline.runs.run_folder import load_learner

        return load_learner(folder, normalisation)


def replay(folder: str | Path, step: int, number: int) -> tuple[MetaParams, Score]:
    """Learn one training task of a run again, at its newest theta, in this process: to look into a task that failed."""
    with _as_it_was():
        from pipeline.runs.run_folder import replay_task

        return replay_task(folder, step, number)
