"""How a gradient-based method makes a gradient of theta from one task: one object, held by the method.

A method differs from another in its inner trajectory and in this. An evolution strategy would be one more class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.core.algorithm import backprop, detach
from pipeline.core.inner import conjugate_gradient, norm
from pipeline.core.types import Batch, Context, MetaParams, Params, Score, Task

if TYPE_CHECKING:
    from pipeline.families.gradient import GradientBased


class MetaGradient(ABC):
    """From one task to a gradient of theta, or to a *before - after* in its place."""

    differentiable: bool = False
    """Whether it is the derivative of the method's ``objective``."""
    sends: str
    """What a worker sends to the parameter actor, for the page of algorithms."""

    @abstractmethod
    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        """The gradient and the task's score."""


class Backprop(MetaGradient):
    """The derivative of the method's ``objective``, through the inner loop."""

    differentiable = True
    sends = "the gradient of theta"

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        return backprop(method, theta, task, context)


class Delta(MetaGradient):
    """theta - phi after the inner loop (Reptile, arXiv 1803.02999, algorithm 2)."""

    sends = "theta - phi"

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        adapted = method.adapt(theta, task.support, context)
        before = theta["model"]
        delta = {name: (leaf - adapted.phi[name]).detach() for name, leaf in before.items()}
        # The score uses the query batch's own statistics: one query at a time would cost more than learning.
        outputs, _ = method.model.forward_own_statistics(adapted.phi, task.query.x)
        return {"model": delta}, detach(method.loss(outputs, task.query.y))


class Implicit(MetaGradient):
    """(I + H(phi*)/lambda) g = ∇L_query(phi*), at the end of the inner loop alone (arXiv 1909.04630, lemma 1).

    Args:
        proximal: lambda, the weight of the proximal term.
        solver_steps: steps of conjugate gradient.
    """

    sends = "the implicit meta-gradient"

    def __init__(self, proximal: float, solver_steps: int) -> None:
        self.proximal, self.solver_steps = proximal, solver_steps

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        support_loss, weight = method.support_loss(task.support, context), self.proximal
        phi = {name: leaf.detach() for name, leaf in method.last(theta, task.support, context).items()}

        def fit_gradient(at: Params) -> Params:
            return torch.func.grad(support_loss)(at, 0)

        def query_loss(at: Params) -> tuple[Tensor, Score]:
            score = method.score(method.adapted(at, task.support, context), task.query, context)
            return score.loss, score

        # Backward through one gradient gives H v as often as it is asked: H is symmetric.
        slope, curve = torch.func.vjp(fit_gradient, phi)[:2]

        def operator(v: Params) -> Params:
            """(I + H/lambda) v."""
            (curved,) = curve(v)
            return {name: v[name] + curved[name] / weight for name in v}

        wanted, score = torch.func.grad(query_loss, has_aux=True)(phi)
        gradient, residual = conjugate_gradient(operator, wanted, self.solver_steps)
        left = {name: slope[name] + weight * (phi[name] - theta["model"][name]) for name in phi}
        metrics = {"inner_gradient": norm(left) / norm(wanted), "solver_residual": residual}
        return {"model": gradient}, detach(score._replace(metrics=score.metrics | metrics))


class Nothing(MetaGradient):
    """No gradient: theta is never learned, and a task is only scored."""

    sends = "nothing: theta is never learned"

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        return {}, detach(method.objective(theta, task, context))
