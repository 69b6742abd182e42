"""A way to train, in a process of its own, that takes steps when it is told to: by hand, our worker, Ray, a library.

``python -m tests.bench.contestants SPEC``: on each line of its input that is a number it takes so many steps and writes
what they took; on ``facts`` it writes what is known of it; at the end of its input it ends. It writes lines of JSON.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from pipeline.build import build_components
from pipeline.config import Recipe
from pipeline.engine.chunks import chunks_of
from tests.bench import by_ray, libraries, trial
from tests.bench.by_hand.loop import Loop, Setting
from tests.bench.peak import synchronise
from tests.bench.precision import precision
from tests.bench.prepared import BuildPrepared
from tests.bench.scenarios import SCENARIOS, recipe_of


class Spec(NamedTuple):
    """Who takes part. ``way``: hand, worker, ray, a library's name, or ``facts``, which takes no steps."""

    way: str
    scenario: str
    images: str
    folder: str
    device: str = "cpu"
    setting: tuple[int, bool, bool] = Setting()
    workers: int = 1
    changes: tuple[str, ...] = ()

    def recipe(self) -> Recipe:
        changes = (*self.changes, f"numerics.device={self.device}")
        return recipe_of(self.scenario, Path(self.images), Path(self.folder), changes)


class Script:
    """What this process is told, and what it answers."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self.facts: Callable[[], dict[str, Any]] = dict

    def answer(self, **values: Any) -> None:
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def ready(self) -> None:
        """The first answer: what is held by then. What is held at most is counted from here on."""
        self.answer(memory_mb=memory("VmRSS"))
        for process in _tree():
            with suppress(OSError):  # it has ended, or the kernel does not let us
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")

    def steps(self) -> int:
        """How many steps are to be taken next; 0 to end. Facts are answered meanwhile."""
        for line in sys.stdin:
            if line.strip() != "facts":
                return int(line)
            self.answer(**self.facts(), memory_mb=memory("VmHWM"))
        return 0


class Taken:
    """Seconds and CPU seconds since it was made, of this process and all that it started."""

    def __init__(self) -> None:
        self.cpu, self.wall = _cpu_s(), time.perf_counter()

    def answer(self, steps: int) -> dict[str, float]:
        wall = time.perf_counter() - self.wall
        return {"steps": steps, "seconds": wall, "cpu_s": _cpu_s() - self.cpu}


def serve(script: Script, step: Callable[[], object], device: torch.device) -> None:
    """Take steps as told."""
    script.ready()
    while count := script.steps():
        synchronise(device)
        taken = Taken()
        for _ in range(count):
            step()
        synchronise(device)
        script.answer(**taken.answer(count))


def worker_step(recipe: Recipe, script: Script) -> Callable[[], None]:
    """A step of our worker: all chunks, one after the other. Its facts are the seconds that it reports."""
    worker, theta = BuildPrepared(recipe.model_dump_json())(), build_components(recipe).theta.numpy()
    number, seconds = 0, dict[str, float]()

    def step() -> None:
        nonlocal number
        number += 1
        for chunk in chunks_of(0, number, recipe.tasks_per_step, recipe.chunk_size, purpose="train", split="train"):
            for name, value in worker.learn(theta, chunk)[1].seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value

    script.facts = lambda: {"stages": {name: value / sum(seconds.values()) for name, value in seconds.items()}}
    return step


def memory(line: str) -> dict[str, float]:
    """MB of each process of this tree by its title: now (``VmRSS``) or at most since it was ready (``VmHWM``)."""
    found: dict[str, float] = {}
    for process in _tree():
        size = re.search(rf"^{line}:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.M)
        title = "this" if process.pid == os.getpid() else process.name()
        found[title] = max(found.get(title, 0.0), int(size[1]) / 1e3 if size else 0.0)
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def _tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def _cpu_s() -> float:
    times = [process.cpu_times() for process in _tree()]
    return sum(one.user + one.system for one in times)


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    script, recipe = Script(), spec.recipe()
    device = torch.device(spec.device)
    if spec.way == "ray":
        by_ray.serve(script, recipe, spec.workers, Path(spec.folder), Taken)
        return
    if spec.way == "worker":
        serve(script, worker_step(recipe, script), device)
        return
    components = build_components(recipe)
    theta = components.layout.unpack(components.theta)
    images = bool(SCENARIOS[spec.scenario].pictures)
    if spec.way == "facts":
        script.ready()
        # The trial comes first: a worker makes the process compute as it does.
        tried = trial.best(recipe, theta, device, images=images)
        last = tried["setting"].channels_last
        script.facts = lambda: tried | {"errors": precision(recipe, theta, device, channels_last=last)}
        script.steps()
        return
    loop = Loop(recipe, theta, device, Setting(*spec.setting))
    if spec.way != "hand":
        loop = libraries.with_library(spec.way, loop, recipe)
    serve(script, loop.step, device)


if __name__ == "__main__":
    main()
