"""Which of the settings that a good loop would try is the fastest one on this machine, and how exact gradients are."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from tests.bench.by_hand.loop import Loop, Setting, settings
from tests.bench.by_hand.nets import Weights
from tests.bench.peak import flops, synchronise

ROUNDS = 2
SECONDS = 0.25
"""Of one setting in one round, where one task takes no longer."""


def best(recipe: Any, theta: dict[str, Weights], device: torch.device, *, images: bool) -> dict[str, Any]:
    """The setting whose fastest round is the fastest, tasks per second of each, and GFLOP of a task."""
    cores = len(os.sched_getaffinity(0))
    loops = {setting: Loop(recipe, theta, device, setting) for setting in settings(device, images, cores)}
    rates = dict.fromkeys(loops, 0.0)
    for _ in range(ROUNDS):
        for setting, loop in loops.items():
            setting.apply()
            settled = _seconds(loop, 1, device)
            tasks = min(recipe.tasks_per_step, max(1, int(SECONDS / settled)))
            rates[setting] = max(rates[setting], tasks / _seconds(loop, tasks, device))
    chosen = max(rates, key=lambda setting: rates[setting])
    Setting().apply()
    return {
        "setting": chosen,
        "tried": {setting.says(): rate for setting, rate in rates.items()},
        "gflop_per_task": flops(Loop(recipe, theta, torch.device("cpu"), Setting())),
    }


def _seconds(loop: Loop, tasks: int, device: torch.device) -> float:
    """Of the fastest step of so many tasks, within ``SECONDS`` or one step."""
    fastest, began, loop.count = float("inf"), time.perf_counter(), tasks
    while fastest == float("inf") or time.perf_counter() - began < SECONDS / 2:
        start = time.perf_counter()
        loop.step()
        synchronise(device)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
