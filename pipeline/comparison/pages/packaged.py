"""The page of recipes: the recorded scores of packaged recipes, and every field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline import config, recipes
from pipeline.comparison.compare import identity
from pipeline.comparison.pages import fields
from pipeline.comparison.pages.measured import line, machine, reached
from pipeline.comparison.protocol import Method, Protocol, read
from pipeline.config import Recipe, recipe_type
from pipeline.runs.recorded import RESULTS, Result, load

OWN_RUNS = "recipes"
"""The folder of results outside any protocol: one file for each recipe, by its name."""

_COLUMNS = ("recipe", "reached", "on", "normalisation", "trained", "with", "date", "command", "published")
_COPIED = "†"


def page(results: Path = RESULTS) -> str:
    """Markdown: a row for each recorded run of a packaged recipe, then every field by section."""
    runs = recorded_runs(results)
    rows = [_row(name, one) for name in recipes.names() for one in runs.get(name, [])]
    missing = [f"`{name}`" for name in recipes.names() if name not in runs]
    parts = [
        "# Recipes",
        "Made by `make docs` out of the recipes, the recorded runs and what each field says of itself; "
        "do not edit. A recipe is a YAML file. It may name a `base` that it changes, and the command line changes it "
        "again by dotted keys: `python -m jobs.train omniglot_maml_5w1s task.train.ways=20 task.eval.ways=20`.",
        "## Packaged recipes",
        "Each row is a run of the recipe as it is packaged, on fixed tasks of the split that it names: mean ± 95% "
        "interval over tasks. Times are wall times, some of them beside other work. [results.md](results.md) has the "
        f"same methods under other settings. {_COPIED}: copied from a text of that day; the run's file was not kept.",
        "\n".join([line(_COLUMNS), line(["---"] * len(_COLUMNS)), *rows]),
    ]
    if missing:
        parts.append(f"No run is recorded of {', '.join(missing)}.")
    return "\n\n".join([*parts, *fields.sections(recipe_type())])


def recorded_runs(results: Path = RESULTS) -> dict[str, list[Result]]:
    """Packaged recipe -> the recorded runs with exactly its settings and steps."""
    found: dict[str, list[Result]] = {}
    for name, protocol, one in _candidates(results):
        recipe = config.load(name)
        choice = protocol.methods[one.method].choose
        asked = identity(protocol, recipe, choice)
        if (one.summary.get("identity"), one.summary["steps"]) != (asked, recipe.steps):
            continue
        if choice is None or recipe.adaptation().get(choice.setting) == one.summary["chosen"]["value"]:
            found.setdefault(name, []).append(one)
    return found


def protocol_of(recipe: Recipe) -> Protocol:
    """A run of the recipe as a comparison of one method, from which identities in ``OWN_RUNS`` are made."""
    methods = {recipe.name: Method(recipe=recipe.name)}
    return Protocol(about=recipe.name, tasks=recipe.steps * recipe.tasks_per_step, methods=methods)


def _candidates(results: Path) -> Iterator[tuple[str, Protocol, Result]]:
    for name in recipes.protocol_names():
        protocol = read(name)
        for one in load(results / name):
            if one.method in protocol.methods:
                yield protocol.methods[one.method].recipe, protocol, one
    for one in load(results / OWN_RUNS):
        if one.method in recipes.names():
            yield one.method, protocol_of(config.load(one.method)), one


def _row(name: str, one: Result) -> str:
    run, judged = one.summary, one.evaluation
    ways = f"{judged['ways']}-way " if judged["ways"] > 1 else ""
    _, *sets = judged["data"].split("/")  # a fingerprint, then of images the name of the split set
    among = f" of {sets[0]}" if sets else ""
    seconds = f", {run['train_s']:,.0f} s" if "train_s" in run else ""
    serial = " --executor serial" if run.get("executor") == "serial" else ""
    return line(
        [
            f"`{name}`",
            reached(one) + (f" {_COPIED}" if "copied" in run else ""),
            f"{judged['tasks']} {judged['split']} tasks{among}, {ways}{judged['shots']}-shot",
            judged["normalisation"],
            f"{run['steps']:,} steps{seconds}",
            machine(run) if "executor" in run else "not recorded",
            run["date"][:10],
            f"`python -m jobs.train {name}{serial}`",
            one.published or "–",
        ]
    )
