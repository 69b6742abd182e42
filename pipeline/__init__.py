"""metafleet: distributed, task-parallel meta-training.

>>> import pipeline
>>> run = pipeline.train("sinusoid_maml", ["steps=2", "evaluation.tasks=4"])  # doctest: +ELLIPSIS
a worker needs ...
step 1/2 ...
>>> predictor = pipeline.load(run.folder).adapt([[-1.0], [0.5], [2.0]], [[0.8], [-0.4], [-0.9]])
>>> predictor.predict([[1.0], [1.5]]).shape
(2, 1)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipeline.core.types import MetaParams, Score
    from pipeline.runs.run import RunResult
    from pipeline.serving.learner import Learner
    from pipeline.sweeps.sweep import SweepResult

__version__ = "0.1.0"
__all__ = ["load", "register", "replay", "sweep", "train"]

if sys.platform == "win32":
    raise ImportError("metafleet runs on Linux and macOS, and on Windows inside WSL 2: it locks files with fcntl")

_SET: dict[str, str] = {}
"""Environment variables of MLflow and Ray that an earlier call has set."""


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Restore the caller's torch threads and the environment variables of MLflow and Ray."""
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
    plugins: Sequence[str] = (),
) -> RunResult:
    """Train a packaged recipe or a YAML file; the same as ``python -m jobs.train``.

    Args:
        recipe: the name of a packaged recipe, or the path of a ``.yaml`` file.
        overrides: changes to it as ``key=value``, for example ``algorithm.inner_lr=0.02``.
        executor: ``serial`` for this process, ``ray`` for workers. The result does not depend on it.
        address: HOST:PORT of a Ray head, ``auto``, or ``local`` to start Ray here; by default RAY_ADDRESS, else
            ``auto`` in a Ray job, else ``local``.
        output: the run's folder, or a URI such as ``s3://bucket/run``; by default ``runs/RECIPE/TIME``.
        resume: continue the run in ``output``, or the newest one of the recipe.
        plugins: dotted names of your own modules, imported here and in every worker before the recipe is read.

    Returns:
        The run's folder, its summary, what MLflow did not take, and each test task's scores.

    Raises:
        PipelineError: one line that names what is wrong and the fix.

    >>> import pipeline
    >>> run = pipeline.train("sinusoid_maml", ["steps=2", "evaluation.tasks=4"], output="runs/mine")
    ... # doctest: +ELLIPSIS
    a worker needs ...
    step 1/2 ...
    >>> run.summary["tasks_seen"]
    64
    """
    with _as_it_was():
        from pipeline.config import load as load_recipe
        from pipeline.core.plugins import import_plugins
        from pipeline.runs.report import Progress
        from pipeline.runs.run import RunOptions, train_run
        from pipeline.runs.run_folder import require_plugins

        import_plugins(plugins)
        if resume and output is not None:
            require_plugins(output)
        options = RunOptions(executor, address, output, resume)
        with closing(Progress()) as progress:
            return train_run(load_recipe(recipe, overrides), options, progress)


def sweep(
    recipe: str,
    overrides: Sequence[str],
    *,
    search: Literal["grid", "random", "optuna"] = "grid",
    samples: int | None = None,
    seed: int | None = None,
    stop: bool = False,
    executor: str = "serial",
    address: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    plugins: Sequence[str] = (),
) -> SweepResult:
    """Train a recipe with several values of some settings; the same as ``python -m jobs.sweep``.

    Args:
        recipe: as for ``train``, with ``executor``, ``address``, ``output``, ``resume`` and ``plugins``.
        overrides: ``key=value`` for all children, ``key=value,value`` to try each, ``key=log:1e-4:1e-1`` for a range.
        search: ``grid`` trains every combination, ``random`` and ``optuna`` as many as ``samples``.
        samples: children of a random or Optuna search.
        seed: of a random or Optuna search.
        stop: end children early that are behind the median on validation.

    Returns:
        The children with their validation scores, the best one and its evaluation on test tasks.

    Raises:
        PipelineError: one line that names what is wrong and the fix.

    >>> import pipeline
    >>> swept = pipeline.sweep(
    ...     "sinusoid_maml", ["outer.model.lr=1e-3,1e-2", "steps=2", "evaluation.tasks=4"], output="runs/rates"
    ... )  # doctest: +ELLIPSIS
    a worker needs ...
    child 1/2 ...
    >>> len(swept.children), swept.evaluation["split"]
    (2, 'test')
    """
    with _as_it_was():
        from pipeline.core.plugins import import_plugins
        from pipeline.runs.report import Progress
        from pipeline.runs.run import RunOptions
        from pipeline.sweeps.request import Request
        from pipeline.sweeps.sweep import sweep as run_sweep

        import_plugins(plugins)
        request = Request(recipe, tuple(overrides), search, samples, seed, stop)
        return run_sweep(request, RunOptions(executor, address, output, resume), Progress().note)


def register(name: str, thing: Any) -> None:
    """Make a part of your own known to recipes; call it in a module that ``--import`` or ``plugins`` names.

    Args:
        name: what recipes call it, for example ``algorithm: {name: mine}``; of a loss, what ``Spec.loss`` says.
        thing: an ``Algorithm`` class, a ``Net`` class, a source class (with ``spec`` and ``sample``) or a ``TaskLoss``.

    Raises:
        ConfigError: the name is taken, or a class lacks something; names it.

    >>> import pipeline
    >>> from pipeline.core.losses import TaskLoss, mean_squared_error
    >>> pipeline.register("squares", TaskLoss(mean_squared_error, "mse", higher_is_better=False))
    """
    from pipeline.registry import register as registered

    registered(name, thing)


def load(model: str | Path, *, normalisation: str | None = None, plugins: Sequence[str] = ()) -> Learner:
    """The learner of a finished or interrupted run at its newest checkpoint, or of a model in MLflow.

    Args:
        model: the run's folder, or its URI; or in MLflow at MLFLOW_TRACKING_URI ``models:/NAME@champion``,
            ``models:/NAME/3``, ``models:/m-ID`` or ``runs:/RUN_ID``.
        normalisation: predict under another mode than the run's.
        plugins: the plug-ins that the run was trained with.

    Raises:
        ConfigError: no run or model is there; or the run is transductive and no mode is named, since a row's answer
            would depend on the other rows.
        ResumeError: the run has no valid checkpoint.

    >>> import pipeline
    >>> learner = pipeline.load("runs/first")
    >>> learner.spec.input_shape
    (1,)
    """
    with _as_it_was():
        from pipeline.core.plugins import import_plugins
        from pipeline.runs.models import folder_of
        from pipeline.runs.run_folder import load_learner

        import_plugins(plugins)
        with folder_of(model) as folder:
            return load_learner(folder, normalisation)


def replay(folder: str | Path, step: int, number: int, *, plugins: Sequence[str] = ()) -> tuple[MetaParams, Score]:
    """Learn one training task of a run again, in this process and at the run's newest theta, to inspect it.

    Args:
        folder: the run's folder, or its URI.
        step: the outer step of the task.
        number: the task's number in the step, from 0.
        plugins: the plug-ins that the run was trained with.

    Returns:
        What a worker sends for the task, as group -> leaf -> tensor with the shapes of theta; and the task's score.

    Raises:
        TaskError: the task fails again.

    >>> import pipeline
    >>> gradient, score = pipeline.replay("runs/first", step=1, number=0)
    >>> tuple(gradient["model"]["layer0/weight"].shape), score.loss.shape
    ((40, 1), torch.Size([]))
    """
    with _as_it_was():
        from pipeline.core.plugins import import_plugins
        from pipeline.runs.run_folder import replay_task

        import_plugins(plugins)
        return replay_task(folder, step, number)
