"""The parts of the GPU check, each in a process of its own: the machine, exactness, speed, and workers on Ray."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch

from pipeline.build import BuildWorker, build_components, plan_of
from pipeline.config import Recipe
from pipeline.core.flat import sha256
from pipeline.engine import loop
from pipeline.engine.chunks import chunks_of
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.worker import Worker
from tests.bench import speeds, trial
from tests.bench.by_hand.loop import Loop, Setting
from tests.bench.peak import flops, peaks, synchronise
from tests.bench.precision import precision
from tests.bench.prepared import AT_ONCE, NEVER, BuildPrepared, prepared_after
from tests.bench.ratio import ratio
from tests.bench.scenarios import recipe_of
from tests.bench.stepping import Rates
from tests.quiet_runs import BuildQuietCoordinator

TASKS, QUICK_TASKS = (32, 256, 1024), (2, 4)
"""Tasks of a chunk, which are computed at once."""
ROUNDS, QUICK_ROUNDS = 12, 2
SPEED_S = 140.0
"""Of the whole part: after it no further size is begun."""
STEPS, QUICK_STEPS = 40, 4


class Kept:
    """What a part has found, written after each change."""

    def __init__(self, arguments: argparse.Namespace, name: str) -> None:
        self.path, self.found = arguments.output / f"{name}.json", dict[str, Any]()

    def add(self, name: str, value: Any) -> None:
        self.found[name] = value
        self.path.write_text(json.dumps(self.found, indent=1))


def changed(arguments: argparse.Namespace, scenario: str, tasks: int, chunk: int, *more: str) -> Recipe:
    """A scenario with so many tasks in a step, on the device."""
    small = ("net.channels=8",) if arguments.quick else ()
    sizes = (f"tasks_per_step={tasks}", f"chunk_size={chunk}", f"numerics.device={arguments.device}")
    folder = arguments.output / "pictures"
    return recipe_of(scenario, arguments.omniglot, folder, (*sizes, *small, *arguments.set, *more))


def machine(arguments: argparse.Namespace) -> None:
    """Its name and its measured peaks."""
    kept, device = Kept(arguments, "machine"), torch.device(arguments.device)
    for name, value in speeds.facts(device).items():
        kept.add(name, value)
    kept.add("peaks", peaks(device))


def exact(arguments: argparse.Namespace) -> None:
    """Gradients against float64, by hand and ours; and the bits of a program, which must be those without."""
    kept, device, tasks = Kept(arguments, "exact"), torch.device(arguments.device), 2 if arguments.quick else 32
    for scenario in ("conv4", "conv4_15q"):
        recipe = changed(arguments, scenario, tasks, tasks)
        components = build_components(recipe)
        theta = components.layout.unpack(components.theta)
        with prepared_after(NEVER):
            kept.add(scenario, precision(recipe, theta, device, channels_last=True))
        chunk = chunks_of(1, 1, tasks, tasks, purpose="train", split="train")[0]
        with prepared_after(AT_ONCE):
            worker, vector = BuildWorker(recipe.model_dump_json())(), components.theta.numpy()
            first, *later = [worker.learn(vector, chunk)[0].gradient for _ in range(4)]
        kept.add(f"{scenario}/same_bits", all(np.array_equal(first, one) for one in later))


def speed(arguments: argparse.Namespace) -> None:
    """Tasks per second of the loop by hand, and of a worker without and with programs, at several sizes, by turns."""
    kept, device, began = Kept(arguments, "speed"), torch.device(arguments.device), time.monotonic()
    sizes = QUICK_TASKS if arguments.quick else TASKS
    for scenario, tasks in [("conv4", size) for size in sizes] + [("conv4_15q", size) for size in sizes[:2]]:
        if time.monotonic() - began > SPEED_S:
            kept.add("stopped", f"before {scenario} with {tasks} tasks")
            return
        kept.add(f"{scenario}/{tasks}", _at_size(arguments, scenario, tasks, device))


def _at_size(arguments: argparse.Namespace, scenario: str, tasks: int, device: torch.device) -> dict[str, Any]:
    recipe = changed(arguments, scenario, tasks, tasks)
    theta = build_components(recipe).theta
    fewer = changed(arguments, scenario, min(tasks, 32), min(tasks, 32))  # a loop's time is the same for each task
    by_hand = _hand(fewer, device, quick=arguments.quick)
    ways = {"hand": by_hand, **{name: Learning(recipe, theta.numpy(), calls) for name, calls in CALLS.items()}}
    found: dict[str, Any] = {"gflop_per_task": flops(_loop(recipe, torch.device("cpu"), Setting()))}
    rates: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for name, way in ways.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            way()
        synchronise(device)
        found[name] = {"memory_mb": torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None}
    for _ in range(QUICK_ROUNDS if arguments.quick else ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            done = way()
            synchronise(device)
            rates[name].append(np.array([done / (time.perf_counter() - start)]))
    for name, measured in rates.items():
        result = ratio(rates["hand"], measured, paired=True)
        found[name] |= {"tasks_per_s": result.new, "ratio": [result.value, result.low, result.high]}
        if name in CALLS:
            found[name]["computed_per_s"] = tasks / float(np.median(ways[name].computing[3:]))
    return found


CALLS = {"vectorised": NEVER, "graphs": AT_ONCE}
"""Calls before a program is prepared: on a GPU a program is a CUDA graph."""


class Learning:
    """Lets a worker learn from a chunk; keeps the seconds that it computed, without drawing tasks."""

    def __init__(self, recipe: Recipe, theta: np.ndarray, calls: int) -> None:
        self.recipe, self.theta, self.calls, self.step = recipe, theta, calls, 0
        self.worker: Worker = BuildWorker(recipe.model_dump_json())()
        self.computing: list[float] = []

    def __call__(self) -> int:
        self.step += 1
        count = self.recipe.tasks_per_step
        with prepared_after(self.calls):
            for chunk in chunks_of(1, self.step, count, self.recipe.chunk_size, purpose="train", split="train"):
                self.computing.append(self.worker.learn(self.theta, chunk)[1].seconds["inner_loop"])
        return count


def _hand(recipe: Recipe, device: torch.device, *, quick: bool) -> Callable[[], int]:
    """The loop in its better setting, with torch's own choice of convolutions: TF32 and the fastest."""
    components = build_components(recipe)
    theta = components.layout.unpack(components.theta)
    with as_torch_comes():
        setting = Setting() if quick else trial.best(recipe, theta, device, images=True)["setting"]
    loop_by_hand = _loop(recipe, device, setting)

    def step() -> int:
        with as_torch_comes():
            loop_by_hand.step()
        return loop_by_hand.count

    return step


@contextmanager
def as_torch_comes() -> Iterator[None]:
    """Convolutions as a loop would have them: the fastest kernel, and TF32. Our workers allow neither."""
    cudnn = torch.backends.cudnn
    names = ("benchmark", "deterministic", "allow_tf32")
    before = {name: getattr(cudnn, name) for name in names}
    try:
        for name, value in zip(names, (True, False, True), strict=True):
            setattr(cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


def _loop(recipe: Recipe, device: torch.device, setting: Setting) -> Loop:
    components = build_components(recipe)
    return Loop(recipe, components.layout.unpack(components.theta), device, setting)


def workers(arguments: argparse.Namespace) -> None:
    """Runs on 1, 2 and 4 real Ray workers that share the GPU, on one Ray: their speed, and the theta they end with."""
    import ray

    kept, tasks = Kept(arguments, "workers"), 8 if arguments.quick else 256
    steps = QUICK_STEPS if arguments.quick else STEPS
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for count in (1, 2, 4):
        recipe = changed(arguments, "conv4", tasks, tasks // 4, f"steps={steps}")
        kept.add(str(count), _on_ray(recipe, count, 1 / count if arguments.device == "cuda" else 0.0))


def _on_ray(recipe: Recipe, count: int, gpus: float) -> dict[str, Any]:
    from pipeline.runtime.cluster import Workers
    from pipeline.runtime.executor import RayExecutor

    text, rates = recipe.model_dump_json(), Rates(recipe)
    coordinator = BuildQuietCoordinator(text, str(Path(mkdtemp()) / "run"))
    timeouts = Timeouts(wait_s=60.0, copy_s=1e6)
    executor = RayExecutor(BuildPrepared(text), coordinator, Workers(count, gpus), "local", Scheduler(timeouts))
    trained = loop.train(executor, plan_of(recipe, build_components(recipe)), rates)
    theta = torch.from_numpy(executor.fetch(trained.theta))
    executor.close("FINISHED", {})
    return {"gpus": gpus, "theta": sha256(theta), "tasks_per_s": _later(rates.array()) * recipe.tasks_per_step}


def _later(rates: Sequence[float] | np.ndarray) -> float:
    """The median of the second half: until then workers start and prepare programs."""
    return float(np.median(rates[len(rates) // 2 :]))


PARTS = {"machine": machine, "exact": exact, "speed": speed, "workers": workers}
