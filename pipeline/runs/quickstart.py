"""From a folder of pictures, or a table, to an evaluated and registered model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from pipeline.build import build_components, build_pool, evaluation_plan
from pipeline.config import Recipe, load, validate
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.redact import redact_uri
from pipeline.engine.evaluate import Scores, evaluate
from pipeline.engine.loop import ProgressListener
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.statistics import interval
from pipeline.runs.paths import absolute
from pipeline.runs.registering import Registered, register_run
from pipeline.runs.run import RunOptions, RunResult, train_run, where_to_look
from pipeline.runs.run_folder import validate_folder
from pipeline.tasks.ingest import folder, table
from pipeline.tasks.ingest.options import Options, TableOptions
from pipeline.tasks.ingest.reading import report
from pipeline.tasks.ingest.suited import suited

METRIC = "accuracy"
Estimate = tuple[float, float]
"""A mean over tasks, and half its 95% interval."""


class Quickstarted(NamedTuple):
    """A run, its accuracy beside 1-NN's on the same tasks, their paired difference, and the registered model."""

    run: RunResult
    accuracy: Estimate
    nearest: Estimate
    difference: Estimate
    registered: Registered

    def rows(self, recipe: Recipe) -> dict[str, str]:
        """What is printed at the end, by name: the scores, where everything is, and what to do with the model."""
        judged, name, version = self.run.summary["evaluation"], self.registered.name, self.registered.version
        tasks = f"{judged['tasks']} tasks of {judged['split']} classes, {judged['ways']}-way {judged['shots']}-shot"
        uri = f"models:/{name}@champion" if self.registered.champion else f"models:/{name}/{version}"
        where = f"MLFLOW_TRACKING_URI={redact_uri(absolute(recipe).tracking.uri)}"
        return {
            "judged on": tasks,
            METRIC: _percent(self.accuracy),
            "1-NN": f"{_percent(self.nearest)}, without learning; the difference is {_percent(self.difference, '+')}",
            **where_to_look(self.run, recipe),
            "registered": f"models:/{name}/{version}: {self.registered.why}",
            "to predict": f"{where} python -m jobs.predict {uri} --support LABELLED --query OTHERS",
            "to serve": f"{where} python -m jobs.serve {uri}",
        }


def own_recipe(path: Path, name: str, overrides: Sequence[str], tell: Callable[[str], None]) -> Recipe:
    """Ingest what is at ``path`` to ``data/NAME.arrow``, and the recipe of its kind that trains on it.

    ``tell`` receives what was left out, and the report of what was read.

    Raises:
        ConfigError: ``name`` cannot name a model, or an override is wrong.
        DataError: there is neither a folder of pictures nor a table, or it cannot be ingested.
    """
    if not re.fullmatch(r"[^/\\:@]{1,200}", name) or not name.isprintable() or name.startswith("."):
        raise ConfigError(f"--name: {name!r} cannot name a model; use letters, digits, spaces, _ and -")
    to = Path("data") / f"{name}.arrow"
    kind = "images" if path.is_dir() else "table"
    if kind == "table" and path.suffix.lower() not in table.READERS:
        raise DataError(
            f"{path}: expected a folder of pictures with a folder for each class, or a table that ends in "
            f"{', '.join(table.READERS)}"
        )

    def own(split_set: str) -> Recipe:
        given = [f"name={name}", f"source.path={to}", f"source.split={split_set}"]
        return load(f"own_{kind}_protonet", [*given, *overrides])

    own("random")  # a wrong override is refused before anything is read
    read = _ingest_pictures(path, to) if kind == "images" else table.ingest(path, to, TableOptions(min_rows=2))
    for line in (*read.notes, *read.file.summary().splitlines(), *report(read.file, "examples")):
        tell(line)
    return own(next(iter(read.file.splits)))


def _ingest_pictures(path: Path, to: Path) -> folder.Ingested:
    chosen = suited(path)
    return folder.ingest(path, to, Options(chosen.size, chosen.mode, skip_unreadable=True, min_images=2))


def quickstart(recipe: Recipe, options: RunOptions, listener: ProgressListener) -> Quickstarted:
    """Train a recipe of ``own_recipe``, compare it with 1-NN, and register its model under the recipe's name.

    Raises as ``train_run`` does.
    """
    ended = train_run(recipe, options, listener)
    own, plain = (scores.metrics[METRIC][:, -1] for scores in (ended.scores, _nearest(validate_folder(ended.folder))))
    registered = register_run(str(ended.folder), recipe.name)
    return Quickstarted(ended, interval(own), interval(plain), interval(own - plain), registered)


def _nearest(recipe: Recipe) -> Scores:
    """The scores of 1-NN on a run's evaluation tasks. What it would learn changes no answer."""
    whole = recipe.model_dump(mode="json") | {"algorithm": {"name": "nearest"}, "normalisation": "none"}
    plain = validate(whole, "of 1-NN on the same tasks")
    components = build_components(plain)
    pool = build_pool(plain, "serial", None, Timeouts(), None)
    with closing(pool.transport), pool.stop.listening():
        return evaluate(pool, components.theta.numpy(), evaluation_plan(plain, components.source))


def _percent(estimate: Estimate, sign: str = "") -> str:
    mean, half = estimate
    return f"{100 * mean:{sign}.2f}% ± {100 * half:.2f}%"
