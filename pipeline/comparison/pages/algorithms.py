"""The page of all algorithms, made from the registry, the packaged recipes and the recorded results."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pipeline import recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.comparison.pages.measured import line, reached
from pipeline.core.actions import Actions
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import init_rng
from pipeline.core.source import Spec, Tokens
from pipeline.core.types import Batch, Family, Needs, Pairs, Points, Sets, Simulator, Stream
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import MODES
from pipeline.runs.recorded import RESULTS, recorded

_ABOUT: dict[Family, str] = {
    "optimisation": "A task adapts weights by gradient steps; what is learned is where and how they start.",
    "metric": "A task is answered by distances between embeddings; what is learned is the embedding. No inner steps.",
    "memory": "A task is read into a state or a memory that is written to; also called model-based.",
    "neural process": "A task is coded, and answers are distributions that the code gives.",
    "learned optimiser": "A task is trained by an optimiser that was learned.",
    "policy": "A task is a world to act in; what is learned is a policy that adapts to it, by gradient steps or in its "
    "state.",
    "baseline": "What a method must beat to have learned something about adapting.",
}

_COLUMNS = ("algorithm", "paper", "tasks", "a worker sends", "groups of theta", "recipes", "measured")

_SPECS = (
    Spec(Batch, (1, 16, 16), 3, "slots", "cross_entropy"),
    Spec(Batch, (1, 16, 16), 3, "classes", "cross_entropy"),
    Spec(Batch, (4,), 1, "values", "mean_squared_error"),
    Spec(Points, (1,), 1, "values", "gaussian"),
    Spec(Stream, (1, 16, 16), 3, "slots", "cross_entropy"),
    Spec(Sets, (1, 16, 16), 3, "slots", "cross_entropy"),
    Spec(Simulator, (1,), 3, "none", "return", actions=Actions(3, discrete=True)),
    Spec(Pairs, (3,), 7, "tokens", "tokens", integers=True, tokens=Tokens(7, 4)),
)
"""Small inputs: an algorithm is built for those that it takes, with every network that takes them."""

_TASKS = {
    "slots": "classification",
    "classes": "classification",
    "labels": "classification",
    "values": "regression",
    "tokens": "transduction",
    "none": "simulation",
}


_NETS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("mlp", "conv4", "linear", "seq2seq", "policy")},
    "image_cells": {"cell": None},
}
"""Small networks, one of which every algorithm takes, with settings that are not their defaults."""


def page(results: Path = RESULTS) -> str:
    """Markdown: a section for each family, a row for each algorithm."""
    used, measured = _recipes(), _measured(results)
    parts = [
        "# Algorithms",
        "Made by `make docs` out of what each algorithm says of itself; do not edit. Groups of theta in "
        "brackets are there in some settings only; those in italics are never stepped by an optimizer: state, which is "
        "folded, or what stays as it began. "
        "Measured is what a run came to in a protocol of `jobs.compare`, or of a recipe by itself (`recipes`), with "
        "its 95% interval over tasks and its normalisation; [results.md](results.md) and [recipes.md](recipes.md) have "
        "it all.",
    ]
    for family in get_args(Family):
        names = [name for name, algorithm in ALGORITHMS.items() if algorithm.about.family == family]
        rows = [_row(name, used.get(name, []), measured.get(name, [])) for name in names]
        if rows:
            head = [line(_COLUMNS), line(["---"] * len(_COLUMNS))]
            parts += [f"## {family[0].upper()}{family[1:]}", _ABOUT[family], "\n".join(head + rows)]
    return "\n\n".join(parts)


def _row(name: str, used: list[str], measured: list[str]) -> str:
    algorithm = ALGORITHMS[name]
    sends, groups = _of_theta(algorithm)
    return line(
        [
            f"`{name}`",
            algorithm.about.paper,
            ", ".join(_tasks(algorithm.needs)),
            sends,
            groups,
            ", ".join(f"`{recipe}`" for recipe in used) or "–",
            "<br>".join(measured) or "not measured",
        ]
    )


@functools.cache
def _of_theta(algorithm: type[Algorithm[Any, Any]]) -> tuple[str, str]:
    """What a worker sends, and the groups of theta, as text. They depend on the class alone; building it is slow."""
    built = list(_instances(algorithm))
    return _sends(algorithm, built), ", ".join(_groups(built)) or "–"


def _tasks(needs: Needs) -> list[str]:
    """The tasks that an algorithm takes, as text."""
    named = {_TASKS[target] for target in needs.targets}
    return sorted(named | {one.__name__.lower() for one in needs.data if one not in (Batch, Pairs, Simulator)})


def _sends(algorithm: type[Algorithm[Any, Any]], built: Sequence[Algorithm[Any, Any]]) -> str:
    """What a worker sends: the meta-gradient, and records where the algorithm folds them in some setting."""
    meta_gradient = getattr(built[0] if built else algorithm, "meta_gradient", None)
    sent = meta_gradient.sends if meta_gradient else getattr(algorithm, "sends", "the gradient of theta")
    return f"{sent}; records" if any(one.state_groups for one in built) else sent


def _groups(built: Sequence[Algorithm[Any, Any]]) -> Iterator[str]:
    """The groups of theta in every setting that can be built."""
    thetas = [set(one.init(init_rng(0))) for one in built]
    for group in sorted(set().union(*thetas)):
        shown = f"*{group}*" if any(group in one.unstepped for one in built) else group
        yield shown if all(group in theta for theta in thetas) else f"({shown})"


def _instances(algorithm: type[Algorithm[Any, Any]]) -> Iterator[Algorithm[Any, Any]]:
    """An instance with defaults for each spec and normalisation that it takes, on the first network that fits."""
    for spec in _SPECS:
        if spec.data not in algorithm.needs.data or spec.targets not in algorithm.needs.targets:
            continue
        for mode in MODES:
            for net, settings in ((NETS[name], settings) for name, settings in _NETS.items()):
                if spec.data not in net.takes:
                    continue
                try:
                    body = net.for_tasks(
                        net.Config(**settings), spec, head=algorithm.needs.head, normalised=mode != "none"
                    )
                    model = NormalisedNet(body, mode, spec.input_shape)
                    yield algorithm(algorithm.Config(), model, LOSSES[spec.loss].function)
                    break
                except ConfigError:
                    continue


def _recipes() -> dict[str, list[str]]:
    """Algorithm -> the packaged recipes that use it."""
    used: dict[str, list[str]] = {}
    for recipe in recipes.names():
        used.setdefault(recipes.read(recipe)["algorithm"]["name"], []).append(recipe)
    return used


def _measured(results: Path) -> dict[str, list[str]]:
    """Algorithm -> what its recorded runs came to."""
    found: dict[str, list[str]] = {}
    for one in recorded(results):
        told = f"`{one.protocol}`, {one.method}: {reached(one)} ({one.evaluation['normalisation']})"
        found.setdefault(one.algorithm, []).append(told)
    return found
