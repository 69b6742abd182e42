"""How far our float32 gradient is from float64, beside how far the loop by hand is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.build import BuildWorker, build_components
from pipeline.config import Recipe, plain
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.engine.chunks import chunks_of
from pipeline.engine.numerics import Numerics
from tests.bench.by_hand.gradients import HandTask
from tests.bench.by_hand.loop import Loop, Setting
from tests.bench.by_hand.nets import Weights

STEPS = 9
SECONDS = 8.0
"""No further step is begun after so long."""


class Errors(NamedTuple):
    """Of a gradient in all, and of its leaves."""

    total: float
    leaves: dict[str, float]


def precision(
    recipe: Recipe, theta: dict[str, Weights], device: torch.device, *, channels_last: bool
) -> dict[str, Any]:
    """Relative errors of steps' mean gradients: of each leaf and in all, by hand and of our worker in float32.

    They are medians over up to ``STEPS`` steps: where rounding moves a unit over its kink, in one of some ten or
    hundred steps, the error is a thousand times that of the others. ``worst`` is the largest. ``hand`` is the loop in
    its setting, ``contiguous`` in torch's own layout: torch's kernels for channels last are faster, and round more.
    ``float64`` is our worker's in float64: that it is tiny shows that both compute the same.
    """
    plain(recipe.numerics, Numerics).configure_process()  # else a loop on a GPU would round to TF32
    began, found = time.monotonic(), list[dict[str, Errors]]()
    while not found or (len(found) < STEPS and time.monotonic() - began < SECONDS):
        found.append(_of_step(recipe, theta, device, len(found) + 1, channels_last=channels_last))
    return {"steps": len(found)} | {way: _middle([one[way] for one in found]) for way in found[0]}


def _of_step(
    recipe: Recipe, theta: dict[str, Weights], device: torch.device, step: int, *, channels_last: bool
) -> dict[str, Errors]:
    exact_recipe = recipe.model_copy(update={"numerics": recipe.numerics.model_copy(update={"dtype": "float64"})})
    source = build_components(recipe).source
    tickets = [Ticket(recipe.seed, "train", "train", step, i) for i in range(recipe.tasks_per_step)]
    tasks = [source.sample(ticket) for ticket in tickets]

    def by_hand(dtype: torch.dtype, last: bool) -> Weights:
        loop = Loop(recipe, cast(theta, dtype), device, Setting(channels_last=last))
        grads = loop.compute([_hand_task(cast(task, dtype)) for task in tasks])
        return {name: grad.double().cpu() for name, grad in grads.items()}

    exact = by_hand(torch.float64, False)
    found = {
        "hand": by_hand(torch.float32, channels_last),
        "contiguous": by_hand(torch.float32, False),
        "worker": _by_worker(recipe, theta, step),
        "float64": _by_worker(exact_recipe, theta, step),
    }
    return {way: Errors(_total(one, exact), _leaves(one, exact)) for way, one in found.items()}


def _middle(found: list[Errors]) -> dict[str, Any]:
    leaves = {name: statistics.median(one.leaves[name] for one in found) for name in found[0].leaves}
    totals = [one.total for one in found]
    return {"total": statistics.median(totals), "worst": max(totals), "leaves": leaves}


def _hand_task(task: Any) -> HandTask:
    if not len(task.support.x):  # a sequence without a support set
        return task.query.x, task.query.y
    return task.support.x, task.support.y, task.query.x, task.query.y


def _by_worker(recipe: Recipe, theta: dict[str, Weights], step: int) -> Weights:
    worker = BuildWorker(recipe.model_dump_json())()
    vector = worker.layout.pack(theta).numpy()
    chunks = chunks_of(recipe.seed, step, recipe.tasks_per_step, recipe.chunk_size, purpose="train", split="train")
    done = [worker.learn(vector, chunk)[0] for chunk in chunks]
    total = sum(torch.from_numpy(one.gradient).double() for one in done) / sum(one.weight for one in done)
    layout = type(worker.layout)(worker.layout.leaves, torch.float64)
    return layout.unpack(torch.as_tensor(total))["model"]


def _total(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    off = sum(float((found[name] - one).square().sum()) for name, one in exact.items())
    return (off / sum(float(one.square().sum()) for one in exact.values())) ** 0.5


def _leaves(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - one).norm() / one.norm()) for name, one in exact.items()}
