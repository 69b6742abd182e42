"""Tasks per second of the same second-order MAML step, by hand and through each of our ways to run it."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F

from pipeline.build import BuildWorker, build_components
from pipeline.config import Recipe, load
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.engine.chunks import chunks_of
from pipeline.engine.loop import ProgressListener
from pipeline.runs.run import RunOptions, train_run
from tests.bench import by_hand

STEPS = {"sinusoid_maml": 200, "omniglot_maml_5w1s": 20}
WARM_UP = 5


class Speed(NamedTuple):
    """A way to run a recipe, and its median tasks per second."""

    way: str
    tasks_per_s: float


def speeds(name: str, overrides: list[str], listener: ProgressListener) -> list[Speed]:
    """All ways for one recipe, on one torch thread per process as the recipe says."""
    torch.set_num_threads(1)
    results = [Speed("a loop written by hand", _by_hand(load(name, overrides)))]
    for vectorise in ("false", "true"):
        recipe = load(name, [*overrides, f"numerics.vectorise={vectorise}"])
        results.append(Speed(f"our worker, {'vectorised' if vectorise == 'true' else 'looped'}", _worker(recipe)))
    for workers in (1, 2):
        results.append(
            Speed(f"Ray, {workers} worker{'s' if workers > 1 else ''}", _ray(name, overrides, workers, listener))
        )
    return results


def _by_hand(recipe: Recipe) -> float:
    source = build_components(recipe).source
    weights, forward = by_hand.mlp() if recipe.net.name == "mlp" else by_hand.conv4()
    loss = F.mse_loss if recipe.net.name == "mlp" else F.cross_entropy

    def step(number: int) -> None:
        tickets = [Ticket(0, "train", "train", number, i) for i in range(recipe.tasks_per_step)]
        tasks = [source.sample(ticket) for ticket in tickets]
        # The sources give float64 regressions; the weights are float32, as a recipe's are.
        tasks = [cast(task, torch.float32) for task in tasks]
        by_hand.outer_gradient(weights, forward, loss, tasks, recipe.algorithm.inner_lr)

    return _rate(step, recipe)


def _worker(recipe: Recipe) -> float:
    worker, theta = BuildWorker(recipe.model_dump_json())(), build_components(recipe).theta.numpy()

    def step(number: int) -> None:
        for chunk in chunks_of(0, number, recipe.tasks_per_step, recipe.chunk_size, purpose="train", split="train"):
            worker.learn(theta, chunk)

    return _rate(step, recipe)


def _rate(step: Callable[[int], None], recipe: Recipe) -> float:
    seconds = []
    for number in range(1, STEPS[recipe.name] + WARM_UP + 1):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    return recipe.tasks_per_step / statistics.median(seconds[WARM_UP:])


def _ray(name: str, overrides: list[str], workers: int, listener: ProgressListener) -> float:
    """A real run with everything that belongs to it: theta travels, checkpoints and journal are written."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"steps={STEPS[name] + WARM_UP}", f"workers.count={workers}", "evaluation.tasks=1"]
        tracking = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        train_run(
            load(name, [*overrides, *settings, tracking]), RunOptions("ray", output=Path(folder, "run")), listener
        )
        lines = Path(folder, "run", "journal.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    rates = [entry["metrics"]["tasks_per_s"] for entry in entries if "tasks_per_s" in entry["metrics"]]
    return statistics.median(rates[WARM_UP:])
