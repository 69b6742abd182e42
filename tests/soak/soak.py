"""A run that is broken every few seconds, and what must hold at its end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from pipeline.config import Recipe, load
from pipeline.sync import sync_run
from tests.in_mlflow import check_metrics
from tests.soak.world import World

SECONDS_BETWEEN = (2.0, 5.0)
CALM_SHARE = 0.15
"""Share of the time for the run without faults; the same steps then take the rest, at a fraction of its speed."""


STEPS_PER_S = 40
"""About what two cores do of this recipe, without faults."""


class Soaked(NamedTuple):
    """How a soak ended; ``problems`` must be empty."""

    steps: int
    calm_s: float
    broken_s: float
    faults: dict[str, int]
    slopes: dict[str, float]
    problems: list[str]


def soak(minutes: float, seed: int, folder: Path, say: Callable[[str], None]) -> Soaked:
    """Train without faults, then the same with a fault every few seconds, and compare."""
    steps = int(60 * minutes * CALM_SHARE * STEPS_PER_S)
    calm, calm_s, _, _ = _train(folder / "calm", steps, seed, None, say)
    say(f"without faults: {steps} steps in {calm_s:.0f} s, theta {calm['theta_sha256'][:16]}")
    broken, broken_s, faults, slopes = _train(folder / "broken", steps, seed, SECONDS_BETWEEN, say)
    problems = []
    if calm["theta_sha256"] != broken["theta_sha256"]:
        problems.append(f"theta {broken['theta_sha256']}, without faults {calm['theta_sha256']}")
    problems += [f"calm: {one}" for one in _check(folder / "calm")]
    problems += [f"broken: {one}" for one in _check(folder / "broken")]
    return Soaked(steps, calm_s, broken_s, faults, slopes, problems)


def _recipe(steps: int, port: int) -> Recipe:
    return load(
        "sinusoid_maml",
        [
            f"steps={steps}",
            "seed=11",
            "evaluation.tasks=50",
            f"tracking.uri=http://127.0.0.1:{port}",
            "outer.model.schedule=constant",
        ],
    )


def _train(
    folder: Path, steps: int, seed: int, between: tuple[float, float] | None, say: Callable[[str], None]
) -> tuple[dict[str, Any], float, dict[str, int], dict[str, float]]:
    folder.mkdir(parents=True)
    world = World(folder, folder / "recipe.json", seed)
    world.recipe.write_text(_recipe(steps, world.port).model_dump_json())
    done: Counter[str] = Counter()
    sizes: list[tuple[float, float, float]] = []
    try:
        world.start_server()
        started = time.monotonic()
        world.start_driver()
        next_fault = started + 10.0
        while world.driver is not None and world.driver.poll() != 0:
            if world.driver.poll() is not None:
                world.start_driver()
            if between is not None and time.monotonic() >= next_fault:
                name = world.random.choice([fault.__name__ for fault in world.faults()])
                say(f"{time.monotonic() - started:6.0f} s  {getattr(world, name)()}")
                done[name] += 1
                next_fault = time.monotonic() + world.random.uniform(*between)
            sizes.append((time.monotonic() - started, *_sizes(world)))
            time.sleep(0.2)
        seconds = time.monotonic() - started
        if world.server is None:
            world.start_server()
        sync_run(str(folder / "run"), [])
        return json.loads((folder / "run" / "summary.json").read_text()), seconds, dict(done), _slopes(sizes)
    finally:
        world.close()


def _sizes(world: World) -> tuple[float, float]:
    """Memory in MB and open files of the processes that live through the whole run."""
    memory = files = 0.0
    for process in world.survivors():
        try:
            memory += process.memory_info().rss / 2**20
            files += process.num_fds()
        except psutil.Error:  # it ended meanwhile
            continue
    return memory, files


def _slopes(sizes: list[tuple[float, float, float]]) -> dict[str, float]:
    """Growth a minute over the second half, when everything is warm."""
    half = np.array(sizes[len(sizes) // 2 :])
    minutes = half[:, 0] / 60
    return {
        "memory_mb_per_min": float(np.polyfit(minutes, half[:, 1], 1)[0]),
        "files_per_min": float(np.polyfit(minutes, half[:, 2], 1)[0]),
    }


def _check(folder: Path) -> list[str]:
    return check_metrics(folder / "run", f"sqlite:///{folder / 'mlflow.db'}")
