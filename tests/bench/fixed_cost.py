"""What a step on Ray costs beside its arithmetic: a run whose workers draw their tasks, and compute nothing.

``python -m tests.bench.fixed_cost`` trains the sinusoid recipe with an MLP of 0.1 M parameters on two workers, with
journal, checkpoints and MLflow. It prints the wall time of a step and the CPU time of each kind of process in it, which
other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from jobs import run
from pipeline.build import BuildCoordinator, BuildWorker
from pipeline.config import Recipe, load
from pipeline.core.types import MetaParams
from pipeline.engine.drawing import SampledChunk
from pipeline.engine.worker import TaskResult, Worker
from tests.bench import stepping

WARM_UP = 50
SIZES = {1_761: "[40, 40]", 100_486: "[315, 315]", 250_998: "[499, 499]", 1_001_998: "[999, 999]"}
"""Parameters -> the hidden layers that have as many."""


class Idle(Worker):
    """Does all that a worker does for a chunk, except the arithmetic."""

    def _learn(self, theta: MetaParams, drawn: SampledChunk, step: int) -> tuple[MetaParams, list[TaskResult]]:
        return theta, [TaskResult(slot, 0.0, {}, {}) for slot in range(len(drawn.weights))]


@dataclass(frozen=True)
class BuildIdleWorker:
    """Builds one in the calling process."""

    recipe: str

    def __call__(self) -> Worker:
        worker = BuildWorker(self.recipe)()
        worker.__class__ = Idle
        return worker


class FixedCost(NamedTuple):
    """Milliseconds of a step: its wall time (10% quantile and median), and the CPU time of processes by kind."""

    low: float
    median: float
    cpu: Mapping[str, float]


class Watch(stepping.Rates):
    """Reads the processes' CPU time once the run is warm."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.before: dict[str, float] = {}

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        super().step(step, loss, metrics, tasks_per_s)
        if step == WARM_UP:
            self.before = cpu_seconds()
        if step == self.recipe.steps:
            after = cpu_seconds()
            self.spent = {kind: after[kind] - self.before.get(kind, 0.0) for kind in after}


def fixed_cost(parameters: int, steps: int, workers: int) -> FixedCost:
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"net.hidden={SIZES[parameters]}", f"steps={steps + WARM_UP}", f"workers.count={workers}"]
        settings += ["evaluation.validate_every=0", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        recipe = load("sinusoid_maml", settings)
        text, watch = recipe.model_dump_json(), Watch(recipe)
        coordinator = BuildCoordinator(text, f"{folder}/run", commit="", accept_numerics=False)
        Path(folder, "run").mkdir()
        problem = stepping.train(recipe, coordinator, watch, BuildIdleWorker(text))
    if problem is not None:
        raise RuntimeError(problem)
    took = (1e3 / watch.array()[WARM_UP:]).tolist()
    cpu = {kind: 1e3 * spent / steps for kind, spent in sorted(watch.spent.items())}
    return FixedCost(statistics.quantiles(took, n=10)[0], statistics.median(took), cpu)


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of this process and of those that it started, by kind."""
    kinds = {"TaskWorker": "workers", "ParameterActor": "parameter actor"}
    spent: dict[str, float] = defaultdict(float)
    for one in (me := psutil.Process(), *me.children(recursive=True)):
        name, times = one.name(), one.cpu_times()
        kind = next((kinds[word] for word in kinds if word in name), "driver" if one == me else "Ray's own processes")
        spent[kind] += times.user + times.system
    return spent


def main() -> None:
    described = argparse.ArgumentParser(prog="python -m tests.bench.fixed_cost", description=__doc__.splitlines()[0])
    described.add_argument("--parameters", type=int, choices=SIZES, default=100_486)
    described.add_argument("--steps", type=int, default=300)
    described.add_argument("--workers", type=int, default=2)
    arguments = described.parse_args()
    torch.set_num_threads(1)
    found = fixed_cost(arguments.parameters, arguments.steps, arguments.workers)
    print(f"a step of {arguments.parameters:,} parameters on {arguments.workers} workers, without its arithmetic:")
    print(f"  wall {found.median:.2f} ms (10% quantile {found.low:.2f})")
    print(f"  CPU {sum(found.cpu.values()):.2f} ms:", *(f"{kind} {ms:.2f}" for kind, ms in found.cpu.items()), sep="  ")


if __name__ == "__main__":
    run(main)
