"""What ``make bench`` measures: recipes with small changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import Recipe, load
from pipeline.tasks import classfile

CLASSES, EACH, SIDE = 64, 20, 32
LIBRARIES = ("learn2learn", "torchopt", "higher")


class Scenario(NamedTuple):
    """A recipe, what is changed of it, and what it needs to run."""

    title: str
    recipe: str
    changes: tuple[str, ...] = ()
    pictures: str = ""
    """``omniglot``: the ingested images; ``random``: pictures of 32×32×3, which do for speed."""
    libraries: bool = True
    """Whether other libraries can be written for it in a few lines: for second-order MAML."""
    due: float | None = None
    """How many times as fast as the hand-written loop two workers on Ray are to be."""


SCENARIOS = {
    "sinusoid": Scenario("sinusoid, MLP 40-40, MAML", "sinusoid_maml", due=10.0),
    "conv4": Scenario("conv-4, 5-way, 1 query", "omniglot_maml_5w1s", pictures="omniglot", due=3.0),
    "conv4_15q": Scenario(
        "conv-4, 5-way, 15 queries", "omniglot_maml_5w1s", ("task.train.queries=15",), "omniglot", due=2.5
    ),
    "conv4_5steps": Scenario(
        "conv-4, 5-way, 1 query, 5 inner steps",
        "omniglot_maml_5w1s",
        ("algorithm.inner_steps=5", "algorithm.inner_lr=0.4", "algorithm.eval_inner_steps=5"),
        "omniglot",
    ),
    "conv4_20way": Scenario(
        "conv-4, 20-way, 1 query",
        "omniglot_maml_5w1s",
        ("task.train.ways=20", "task.eval.ways=20", "tasks_per_step=16", "chunk_size=8", "algorithm.inner_lr=0.4"),
        "omniglot",
    ),
    "resnet12": Scenario(
        "ResNet-12, 32×32×3, 5-way, 1 query",
        "omniglot_maml_5w1s",
        ("net={name: resnet12}", "tasks_per_step=2", "chunk_size=1", "algorithm.inner_lr=0.01"),
        "random",
        libraries=False,
    ),
    "lstm": Scenario("LSTM 200, 50 images", "omniglot_lstm", pictures="omniglot", libraries=False),
    "protonet": Scenario(
        "ProtoNet, conv-4, 30-way, 5 queries", "omniglot_protonet_5w1s", pictures="omniglot", libraries=False, due=2.0
    ),
}


def recipe_of(name: str, images: Path, folder: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a scenario, with its pictures; random ones are written to ``folder``."""
    one = SCENARIOS[name]
    path = {"omniglot": images, "random": folder / "random.arrow"}.get(one.pictures)
    if one.pictures == "random" and not (folder / "random.arrow").exists():
        write_random(folder / "random.arrow")
    data = () if path is None else (f"source.path={path.absolute()}",)
    fixed = ("evaluation.tasks=1", "tracking.report=false")
    return load(one.recipe, [*one.changes, *data, *fixed, *changes])


def write_random(path: Path) -> None:
    """Classes of random pictures, written by the project's own writer."""
    pixels = np.random.default_rng(0).integers(0, 256, (CLASSES * EACH, SIDE, SIDE, 3), dtype=np.uint8)
    names = [f"noise {number:02}" for number in range(CLASSES)]
    splits: Any = {"random": {"train": list(range(48)), "val": list(range(48, 56)), "test": list(range(56, CLASSES))}}
    classfile.write(path, pixels, [EACH] * CLASSES, names, splits, "made by tests/bench/scenarios.py")
