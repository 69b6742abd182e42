"""How far our float32 gradient is from float64, beside how far the loop by hand is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.build import BuildWorker, build_components
from pipeline.config import Recipe
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.engine.chunks import chunks_of
from tests.bench.by_hand.gradients import HandTask
from tests.bench.by_hand.loop import Loop, Setting
from tests.bench.by_hand.nets import Weights

STEP = 1


def precision(recipe: Recipe, theta: dict[str, Weights], device: torch.device) -> dict[str, Any]:
    """Relative errors of a step's mean gradient: of each leaf and in all, by hand and of our worker in float32.

    ``float64`` is our worker's in float64: that it is tiny shows that both compute the same.
    """
    exact_recipe = recipe.model_copy(update={"numerics": recipe.numerics.model_copy(update={"dtype": "float64"})})
    source = build_components(recipe).source
    tickets = [Ticket(recipe.seed, "train", "train", STEP, i) for i in range(recipe.tasks_per_step)]
    tasks = [source.sample(ticket) for ticket in tickets]
    exact = _by_hand(recipe, theta, tasks, device, torch.float64)
    found = {
        "hand": _by_hand(recipe, theta, tasks, device, torch.float32),
        "worker": _by_worker(recipe, theta),
        "float64": _by_worker(exact_recipe, theta),
    }
    return {name: {"total": _total(one, exact), "leaves": _leaves(one, exact)} for name, one in found.items()}


def _by_hand(
    recipe: Recipe, theta: dict[str, Weights], tasks: list[Any], device: torch.device, dtype: torch.dtype
) -> Weights:
    loop = Loop(recipe, cast(theta, dtype), device, Setting())
    return {
        name: grad.double().cpu() for name, grad in loop.compute([_hand_task(cast(t, dtype)) for t in tasks]).items()
    }


def _hand_task(task: Any) -> HandTask:
    if not len(task.support.x):  # a sequence without a support set
        return task.query.x, task.query.y
    return task.support.x, task.support.y, task.query.x, task.query.y


def _by_worker(recipe: Recipe, theta: dict[str, Weights]) -> Weights:
    worker = BuildWorker(recipe.model_dump_json())()
    vector = worker.layout.pack(theta).numpy()
    chunks = chunks_of(recipe.seed, STEP, recipe.tasks_per_step, recipe.chunk_size, purpose="train", split="train")
    done = [worker.learn(vector, chunk)[0] for chunk in chunks]
    total = sum(torch.from_numpy(one.gradient).double() for one in done) / sum(one.weight for one in done)
    layout = type(worker.layout)(worker.layout.leaves, torch.float64)
    return layout.unpack(torch.as_tensor(total))["model"]


def _total(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    off = sum(float((found[name] - one).square().sum()) for name, one in exact.items())
    return (off / sum(float(one.square().sum()) for one in exact.values())) ** 0.5


def _leaves(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - one).norm() / one.norm()) for name, one in exact.items()}
