"""Learning from tasks of equal shape at once: one vectorised computation, prepared as a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.algorithm import Algorithm, detach, gradient_of, require_grad
from pipeline.core.types import Context, MetaParams, Params, Score, Task
from pipeline.engine.drawing import TaskBatch
from pipeline.engine.program import Prepared

PerTask = Callable[[Task[Any], Params], Any]


class Together:
    """Learns from a ``TaskBatch``. An algorithm that asks for the step computes each step anew, without a program."""

    def __init__(self, algorithm: Algorithm[Any, Any]) -> None:
        self.algorithm = algorithm
        self.prepared = Prepared()
        self.asked = Asked()

    def learn(self, theta: MetaParams, weights: Tensor, batch: TaskBatch, step: int) -> tuple[MetaParams, Score]:
        """The sum of the tasks' gradients by ``weights`` [T], and their scores with a leading task dimension."""

        def compute(theta: MetaParams, weights: Tensor, tensors: Any) -> tuple[MetaParams, Score]:
            def context(task: Task[Any], noise: Params) -> Context:
                return self.asked.context(step, task.ways, noise)

            return _learn(self.algorithm, theta, weights, TaskBatch(batch.ways, tensors), context)

        if self.asked.for_the_step:
            return compute(theta, weights, batch.tensors)
        found: tuple[MetaParams, Score] = self.prepared(batch.ways, compute, theta, weights, batch.tensors)
        return found


class Asked:
    """Makes contexts that note whether somebody asks them for the step."""

    def __init__(self) -> None:
        self.for_the_step = False
        noted = self

        class Noting(Context):
            @property
            def step(self) -> int:
                noted.for_the_step = True
                return self[0]

        self._context = Noting

    def context(self, step: int, ways: int, noise: Params) -> Context:
        return self._context(step, "train", ways, noise)


def vmap_tasks(compute: PerTask, together: TaskBatch) -> Any:
    """``compute`` over all tasks at once; each tensor of the result gains a leading task dimension."""

    def one(tensors: tuple[Any, Any, Params]) -> Any:
        support, query, noise = tensors
        return compute(Task("", support, query, together.ways), noise)

    return torch.func.vmap(one)(together.tensors)


def _learn(
    algorithm: Algorithm[Any, Any],
    theta: MetaParams,
    weights: Tensor,
    batch: TaskBatch,
    context: Callable[[Task[Any], Params], Context],
) -> tuple[MetaParams, Score]:
    def weighted_sum(per_task: Tensor) -> Any:
        return torch.tensordot(weights, per_task, 1)

    if algorithm.differentiable:
        # One backward pass through all tasks, which share theta.
        leaves = require_grad(theta, algorithm.unstepped)
        score = vmap_tasks(lambda task, noise: algorithm.objective(leaves, task, context(task, noise)), batch)
        return gradient_of(weighted_sum(score.loss), leaves, algorithm.unstepped), detach(score)
    gradients, score = vmap_tasks(lambda task, noise: algorithm.learn(theta, task, context(task, noise)), batch)
    return pytree.tree_map(weighted_sum, gradients), score
