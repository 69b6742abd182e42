"""The first steps of four runs, to be compared with what they were when they were last looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import build, config
from pipeline.config import Recipe
from tests.quiet_runs import run

STEPS = 20
FILE = Path(__file__).with_name("trajectories.json")

SMALL: dict[str, Any] = {
    "seed": 7,
    "steps": STEPS,
    "tasks_per_step": 8,
    "chunk_size": 4,
    "net": {"name": "conv4", "channels": 8},
    "normalisation": "transductive",
    "outer": {"model": {"optimizer": "adam", "lr": 0.003}},
}
IMAGES: dict[str, dict[str, Any]] = {
    "small_images_maml": {
        "algorithm": {"name": "maml", "inner_lr": 0.4, "inner_steps": 2},
        "source": {"train_rotations": "random", "eval_rotations": "random"},
        "task": dict.fromkeys(("train", "eval"), {"ways": 4, "shots": 1, "queries": 2}),
        # Two inner steps over the statistics of four pictures: in float32, 20 steps make 10% of an instruction set.
        "numerics": {"dtype": "float64"},
    },
    "small_images_protonet": {
        "algorithm": {"name": "protonet"},
        "normalisation": "running",
        "task": dict.fromkeys(("train", "eval"), {"ways": 6, "shots": 2, "queries": 3}),
    },
}
PACKAGED = ("sinusoid_maml", "sinusoid_reptile")
NAMES = (*PACKAGED, *IMAGES)


class Trajectory(NamedTuple):
    """The loss of the last step, and theta's 2-norm and hash after it."""

    loss: float
    norm: float
    theta_sha256: str


def recipe(name: str, images: Path) -> Recipe:
    if name in PACKAGED:
        return config.load(name, [f"steps={STEPS}"])
    changes = dict(IMAGES[name])
    source = {
        "name": "images",
        "path": str(images),
        "query_order": "sorted",
        **changes.pop("source", {}),
    }  # as recorded
    return config.validate({"name": name, "source": source} | SMALL | changes, name)


def trajectory(name: str, images: Path, folder: Path) -> Trajectory:
    outcome = run(recipe(name, images), folder, 0)
    assert len(outcome.losses) == STEPS
    return Trajectory(outcome.losses[-1], outcome.norm, outcome.theta)


def fingerprint(name: str, images: Path) -> str:
    """Within which the hash must be the same."""
    worker = build.BuildWorker(recipe(name, images).model_dump_json())()
    return ", ".join(f"{key} {value}" for key, value in worker.fingerprint.items())


def recorded() -> dict[str, dict[str, Any]]:
    """Name -> loss, norm, and theta_sha256 by fingerprint."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    return found
