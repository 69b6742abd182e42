"""A finished run in words, as Markdown: what was trained on what, what it reached, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from pipeline import recipes
from pipeline.config import Recipe, load
from pipeline.core.failures import ConfigError
from pipeline.core.plugins import imported
from pipeline.core.source import Counted
from pipeline.runs.describe import by_key
from pipeline.runs.end_pictures import PICTURES, Ended
from pipeline.runs.paths import absolute
from pipeline.runs.report import final_table, in_the_end

OTHER = ("tracking", "name")
"""Sections of a recipe that say nothing of how a run is repeated."""


def describe_run(ended: Ended) -> str:
    """The description of a finished run."""
    recipe, summary = ended.recipe, ended.summary
    judged = summary["evaluation"]
    _, reached = in_the_end(judged)
    return "\n".join(
        [
            f"**{recipe.algorithm.name}** on **{recipe.source.name}**: {judged['metric']} "
            f"**{reached[judged['metric']]}** on {judged['tasks']} tasks of the {judged['split']} split.",
            "",
            f"- Trained: {summary['steps']:,} outer steps of {recipe.tasks_per_step} tasks"
            f" ({summary['tasks_seen']:,} tasks), network {recipe.net.name} with {summary['parameters']:,} numbers in"
            f" theta, normalisation {recipe.normalisation}.",
            f"- Training tasks: {_shape(recipe.task.train)}. Evaluation tasks: {_shape(recipe.task.eval)}.",
            f"- Data: {_data(ended)}",
            f"- Computed in {summary['wall_s']:,} s ({summary['tasks_per_s']:,} tasks/s) by {summary['workers']}"
            f" worker{'s' * (summary['workers'] > 1)} ({summary['executor']}) on {summary['device']},"
            f" {summary['cpu']}; finished {summary['date']}.",
            f"- Theta: sha256 `{summary['theta_sha256']}`; code: git commit `{summary['git_commit']}`.",
            f"- Pictures: the artifacts in `{PICTURES}`.",
            "",
            "```text",
            final_table(judged),
            "```",
            "",
            "Repeat it:",
            "",
            "```sh",
            command(recipe),
            "```",
            "",
        ]
    )


def command(recipe: Recipe) -> str:
    """The command that repeats a run: a packaged recipe with overrides, or else the run's own ``recipe.yaml``."""
    plugins = "".join(f" --import {shlex.quote(name)}" for name in imported())
    if recipe.name in recipes.names():
        found = _by_key(recipe.public())
        packaged = _by_key(absolute(load(recipe.name)).public())
        changed = [f"{key}={value}" for key, value in found.items() if packaged.get(key) != value]
        try:
            same = _by_key(absolute(load(recipe.name, changed)).public()) == found
        except ConfigError:
            same = False  # a changed part has other keys, which an override of single values does not replace
        if same:
            return " ".join(["python -m jobs.train", recipe.name, *map(shlex.quote, changed)]) + plugins
    return f"python -m jobs.train recipe.yaml{plugins}  # the artifact recipe.yaml of this run"


def _by_key(public: Mapping[str, Any]) -> dict[str, str]:
    return by_key({key: value for key, value in public.items() if key not in OTHER})


def _shape(shape: Any) -> str:
    several, asked = shape.ways > 1, "query" if shape.queries == 1 else "queries"
    ways = f"{shape.ways}-way " if several else ""
    return f"{ways}{shape.shots}-shot, {shape.queries} {asked}{' of each class' if several else ''}"


def _data(ended: Ended) -> str:
    source = ended.components.source
    named = getattr(ended.recipe.source, "split", "")
    told = f"{ended.recipe.source.name}{f', split set {named}' if named else ''}"
    if isinstance(source, Counted):
        parts = [f"{split} {_counted(found)}" for split, found in source.counts().items()]
        told += f" ({'; '.join(parts)})"
    return f"{told}, hash `{source.fingerprint}`."


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in found.items())
