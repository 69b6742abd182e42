"""Methods that adapt a network's weights by inner steps. Each brings its inner trajectory and its meta-gradient.

A meta-gradient is an object that a method holds: backpropagation, a delta, the implicit gradient. An evolution strategy
would be one more class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Algorithm, backprop, detach
from pipeline.core.batches import batches, examples, take
from pipeline.core.failures import ConfigError
from pipeline.core.inner import InnerLoss, Rule, beside, conjugate_gradient, iterate, last, norm
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.recompute import Partial
from pipeline.core.types import Batch, Context, MetaParams, Needs, Pairs, Params, Phase, Score, Task

BATCHES = "batches"
"""The mini-batches [inner steps, examples] of a support set among a task's random tensors."""


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
    """theta - phi after the inner loop (Reptile, arXiv 1803.02999, algorithm 2), of all groups with an optimizer."""

    sends = "theta - phi"

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        phi = method.adapt(theta, task.support, context).phi
        delta = {
            group: {name: (leaf - phi[name]).detach() for name, leaf in leaves.items()}
            for group, leaves in theta.items()
            if group not in method.unstepped
        }
        # The score uses the query batch's own statistics: one query at a time would cost more than learning.
        return delta, detach(method.loss(method.model.outputs(phi, task.query), task.query.y))


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


class GradientBased(Algorithm[Batch, Adapted]):
    """Adapts along ``inner_trajectory``. ``config`` has ``inner_steps`` for training, ``eval_inner_steps`` otherwise.

    A support set is a ``Batch``; or ``Pairs``, on a network of sequences, which have the same names x and y.

    Raises:
        ConfigError: ``normalisation: running``, with which an inner loop diverges.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch, Pairs), targets=("slots", "values", "tokens"), head=True)
    meta_gradient: MetaGradient = Backprop()
    """How the gradient of theta is computed from one task."""
    adapts_parts: ClassVar[bool] = False
    """Whether its inner steps can leave leaves as they are, as ``inner_loop`` does."""
    drops_in_steps: ClassVar[bool] = False
    """Whether its inner steps are steps of ``support_loss``, which has other dropout masks for each at evaluation."""

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        if model.mode == "running":
            raise ConfigError(
                f"normalisation: 'running' makes {type(self).__name__} diverge; use support, one_query or transductive"
            )
        super().__init__(config, model, loss)
        self.differentiable = self.meta_gradient.differentiable

    @abstractmethod
    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterable[Params]:
        """The network's weights before adaptation and after each inner step."""

    def initial_model(self, rng: np.random.Generator) -> Params:
        """The first leaves of the group ``model``; none of them where there is no such group."""
        return self.model.init(rng)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        """The groups of theta beside ``model``. Default: none."""
        return {}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The random tensors of a task beside the network's own. Default: none."""
        return {}

    def mini_batches(self, rng: np.random.Generator, task: Task[Batch], steps: int, batch: int | None) -> Params:
        """The random mini-batches of ``steps`` inner steps; none where ``batch`` is None: all of the support set."""
        return {} if batch is None else {BATCHES: batches(rng, examples(task.support), steps, batch)}

    def last(self, theta: MetaParams, support: Batch, context: Context) -> Params:
        """The network's weights after the last inner step. Those before it are not kept here."""
        return last(self.inner_trajectory(theta, support, context))

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        model = self.initial_model(rng)
        if not self.adapts_parts and len(self.adapted_leaves(model)) < len(model):
            raise ConfigError(f"net.adapted: {type(self).__name__} chooses by itself what it adapts; set it to all")
        return ({"model": model} if model else {}) | self.extra_groups(rng, model)

    @final
    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        noise = self.extra_noise(rng, task, phase)
        rows = noise[BATCHES].shape[1] if BATCHES in noise else len(task.support.x)
        if phase == "train" or not self.drops_in_steps:
            return noise | self.model.draw(rng, max(rows, rows_of(task)), phase)
        steps = self.steps(Context(0, phase, task.ways, noise))
        return noise | self.model.draw_inner(rng, rows, steps)

    def adapted(self, phi: Params, support: Batch, context: Context) -> Adapted:
        """Weights of the inner trajectory, ready to predict after this support set."""
        return self.model.adapted(phi | self.model.masks(context.noise), support.x)

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Adapted:
        return self.adapted(self.last(theta, support, context), support, context)

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Adapted]:
        for phi in self.inner_trajectory(theta, support, context):
            yield self.adapted(phi, support, context)

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        return self.model.predict(adapted, x)

    def score(self, adapted: Adapted, query: Batch, context: Context) -> Score:
        return self.loss(self.model.query_outputs(adapted, query), query.y)

    @final
    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        return self.meta_gradient(self, theta, task, context)

    def steps(self, context: Context) -> int:
        """How many inner steps there are."""
        steps: int = self.config.inner_steps if context.phase == "train" else self.config.eval_inner_steps
        return steps

    def support_loss(self, support: Batch, context: Context) -> InnerLoss:
        """The mean loss at each inner step: on the whole support set, or on a mini-batch of it where some are drawn."""
        return Partial(self._loss_of, (support, context.noise))

    def _loss_of(self, support: Batch, noise: Params, phi: Params, j: int) -> Tensor:
        seen = take(support, noise[BATCHES][j]) if BATCHES in noise else support
        return self.loss(self.model.outputs(phi | self.model.inner_masks(noise, j), seen), seen.y).loss

    def inner_loop(
        self, theta: MetaParams, support: Batch, context: Context, rule: Rule, *, first_order: bool
    ) -> Iterator[Params]:
        """Steps of ``rule`` on the support loss, from the group ``model``; leaves that are not adapted stay."""
        whole = theta["model"]
        start = self.adapted_leaves(whole)
        fixed = {name: leaf for name, leaf in whole.items() if name not in start}
        loss = beside(fixed, self.support_loss(support, context))
        for phi in iterate(loss, start, self.steps(context), rule, first_order=first_order):
            yield whole | phi

    def adapted_leaves(self, params: Params) -> Params:
        """The leaves that an inner loop changes."""
        return {name: leaf for name, leaf in params.items() if self.model.net.is_adapted(name)}


def rows_of(task: Task[Batch]) -> int:
    """How many examples a task has: no forward pass of it sees more."""
    return len(task.support.x) + len(task.query.x)
