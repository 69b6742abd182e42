"""Published schedules on a GPU, in as many calls as they need: each goes on from the newest checkpoint."""

from __future__ import annotations

import argparse
import json
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.build import build_components, evaluation_plan, plan_of
from pipeline.config import Recipe, load
from pipeline.engine import loop
from pipeline.engine.evaluate import evaluate
from pipeline.engine.loop import Enough
from pipeline.engine.serial import SerialExecutor
from tests.bench.prepared import BuildPrepared
from tests.quiet_runs import BuildQuietCoordinator

SCHEDULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "maml": (
        "omniglot_maml_5w1s",
        (
            *("steps=60000", "chunk_size=32", "source.eval_rotations=random"),
            "outer={model: {optimizer: adam, lr: 0.001}}",
        ),
    ),
    "protonet": (
        "omniglot_protonet_5w1s",
        (
            *("steps=40000", "tasks_per_step=1", "task.train.ways=60"),
            "outer={model: {optimizer: adam, lr: 0.001, schedule: step, step_every: 2000, step_factor: 0.5}}",
        ),
    ),
}
"""Finn et al.: 60,000 steps of 32 tasks. Snell et al.: 60-way tasks one by one, the rate halved every 2,000."""


class Until:
    """A listener that ends a session of a run when its time is up, and notes the loss."""

    def __init__(self, seconds: float) -> None:
        self.end, self.curve = time.monotonic() + seconds, list[tuple[int, float]]()
        self.last = 0

    def start(self, steps: int, done: int) -> None:
        self.last = done

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        self.last = step
        if step % 500 == 0:
            self.curve.append((step, loss))
            print(f"step {step}: loss {loss:.4f}, {tasks_per_s:,.0f} tasks/s", flush=True)
        if time.monotonic() > self.end:
            raise Enough

    def validated(self, *validation: object) -> None: ...

    def note(self, text: str) -> None:
        print(text, flush=True)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for ``--minutes``, or to the end; then evaluate. The run travels as ``DIR/NAME.tar.gz``."""
    name, began = arguments.accuracy, time.monotonic()
    recipe, packed = recipe_of(name, arguments), arguments.output / f"{name}.tar.gz"
    with TemporaryDirectory() as folder:
        if packed.exists():
            with tarfile.open(packed) as tar:
                tar.extractall(folder, filter="data")
        until = Until(60 * arguments.minutes)
        rows = train_in(Path(folder, "run"), recipe, until)
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(Path(folder, "run"), "run")
    found = {
        "recipe": recipe.name,
        "step": until.last,
        "of": recipe.steps,
        "seconds": time.monotonic() - began,
        "loss": until.curve,
        "rows": rows,
    }
    (arguments.output / f"{name}.json").write_text(json.dumps(found, indent=1))
    return found


def train_in(run: Path, recipe: Recipe, until: Until) -> list[dict[str, Any]]:
    """Go on with the run in a folder until its end or the listener's; returns the evaluation's rows."""
    text, components, status = recipe.model_dump_json(), build_components(recipe), "FINISHED"
    executor = SerialExecutor(BuildPrepared(text)(), BuildQuietCoordinator(text, str(run))())
    try:
        loop.train(executor, plan_of(recipe, components), until)
    except Enough:
        status = "KILLED"
    vector = np.array(executor.coordinator.vector())
    scores = evaluate(executor, vector, evaluation_plan(recipe, components.source))
    executor.close(status, {})  # type: ignore[arg-type]
    return [row._asdict() for row in scores.rows()]


def recipe_of(name: str, arguments: argparse.Namespace) -> Recipe:
    base, changes = SCHEDULES[name]
    small = ("net.channels=8", "steps=6", "tasks_per_step=2", "evaluation.tasks=4") if arguments.quick else ()
    # A checkpoint after each step would be most of a step's time.
    fixed = (f"source.path={Path(arguments.omniglot).absolute()}", "checkpoint.every=1000", "tracking.report=false")
    return load(base, [*changes, *fixed, f"numerics.device={arguments.device}", *small, *arguments.set])
