"""In which operations a worker spends its time.

``python -m tests.bench.operations conv4_15q protonet --omniglot FILE``: one process with one thread learns from the
chunks of a step, as a worker does once its program is prepared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from jobs import run
from pipeline.build import build_components
from pipeline.config import Recipe
from pipeline.engine.chunks import chunks_of
from tests.bench.prepared import BuildPrepared
from tests.bench.scenarios import SCENARIOS, recipe_of

WARM, SHOWN = 3, 12


def operations(recipe: Recipe) -> tuple[float, Counter[str]]:
    """The seconds of a step, and those of each operation in it, without what it calls."""
    worker, theta = BuildPrepared(recipe.model_dump_json())(), build_components(recipe).theta.numpy()
    drawn = {"purpose": "train", "split": "train"}
    chunks = chunks_of(recipe.seed, 1, recipe.tasks_per_step, recipe.chunk_size, **drawn)

    def step() -> None:
        for chunk in chunks:
            worker.learn(theta, chunk)

    for _ in range(WARM):
        step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    return seconds, Counter({one.key: one.self_cpu_time_total / 1e6 for one in profiled.key_averages()})


def table(name: str, recipe: Recipe) -> str:
    """The operations that take longest, in percent of all."""
    seconds, of = operations(recipe)
    whole = of.total()
    lines = [f"{SCENARIOS[name].title}: {1000 * seconds:.1f} ms for {recipe.tasks_per_step} tasks"]
    return "\n".join([*lines, *(f"{100 * took / whole:6.1f}%  {key}" for key, took in of.most_common(SHOWN))])


def main() -> None:
    described = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    described.add_argument("names", nargs="+", choices=SCENARIOS, metavar="SCENARIO", help=", ".join(SCENARIOS))
    described.add_argument("--omniglot", type=Path, default=Path("data/omniglot.arrow"), help="the ingested images")
    given = described.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names:
            print(table(name, recipe_of(name, given.omniglot, Path(folder))), flush=True)


if __name__ == "__main__":
    run(main)
