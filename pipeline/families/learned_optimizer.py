"""Learned optimisers: a trajectory of steps on one vector of weights, learned in segments."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.algorithm import detach
from pipeline.core.flat import join, split
from pipeline.core.types import Batch, Context, MetaParams, Params, Score, Task
from pipeline.families.gradient import GradientBased, MetaGradient

State = Params
"""``phi`` [P], all of a learner's weights; support ``loss`` and ``gradient`` [P] there; what the optimiser keeps."""
Observation = Callable[[Tensor], Params]


class TruncatedBackprop(MetaGradient):
    """The derivatives of the segments' losses, summed. Each segment's graph is freed before the next begins."""

    def __init__(self, sends: str) -> None:
        self.sends = sends

    def __call__(
        self, method: GradientBased, theta: MetaParams, task: Task[Batch], context: Context
    ) -> tuple[MetaParams, Score]:
        assert isinstance(method, LearnedUpdateRule), "only a learned update rule has segments"
        like, steps, every = method.start(theta, context), method.steps(context), method.config.detach_every
        observe = method.observer(task.support, like, context)

        def segment(leaves: MetaParams, state: State | None, length: int) -> tuple[Tensor, tuple[Tensor, State]]:
            states = [method.begin(leaves, observe, context) if state is None else state]
            for _ in range(length):
                states.append(method.advance(leaves, states[-1], observe))
            loss = method.segment_loss(states[1:], like, task, context)
            return loss, (loss, states[-1])

        total, state, losses = pytree.tree_map(torch.zeros_like, theta), None, []
        for done in range(0, steps, every):
            gradient, (loss, state) = torch.func.grad(segment, has_aux=True)(theta, state, min(every, steps - done))
            total = pytree.tree_map(torch.add, total, gradient)
            losses.append(loss)
        phi = split(cast(State, state)["phi"], like)
        score = method.score(method.adapted(phi, task.support, context), task.query, context)
        return total, detach(score._replace(loss=torch.stack(losses).sum()))


class LearnedUpdateRule(GradientBased):
    """Steps a learner's weights by an optimiser that is learned: the group ``optimizer``, shared by all coordinates.

    The optimiser's inputs from the learner are constants in the derivative, as in both papers: no second derivatives.
    A ticket is a whole trajectory: after each ``detach_every`` steps the state becomes a constant, and the segments'
    gradients are summed into one outer update, where the papers update after each one. Each one's graph is freed before
    the next.
    """

    @abstractmethod
    def start(self, theta: MetaParams, context: Context) -> Params:
        """The learner's weights before the first step."""

    @abstractmethod
    def initial_state(self, phi: Tensor) -> State:
        """What the optimiser keeps, before the first step; for each coordinate a row."""

    @abstractmethod
    def step(self, optimizer: Params, state: State) -> State:
        """``phi`` after one step, and what the optimiser keeps."""

    @abstractmethod
    def segment_loss(self, segment: Sequence[State], like: Params, task: Task[Batch], context: Context) -> Tensor:
        """The loss of a segment, given the states after each of its steps."""

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        like = self.start(theta, context)
        observe = self.observer(support, like, context)
        state = self.begin(theta, observe, context)
        yield like
        for _ in range(self.steps(context)):
            state = self.advance(theta, state, observe)
            yield split(state["phi"], like)

    def begin(self, theta: MetaParams, observe: Observation, context: Context) -> State:
        phi = join(self.start(theta, context))
        return {"phi": phi} | observe(phi) | self.initial_state(phi)

    def advance(self, theta: MetaParams, state: State, observe: Observation) -> State:
        moved = self.step(theta["optimizer"], state)
        return moved | observe(moved["phi"])

    def observer(self, support: Batch, like: Params, context: Context) -> Observation:
        fit = self.support_loss(support, context)

        def observe(phi: Tensor) -> Params:
            gradient, loss = torch.func.grad_and_value(lambda at: fit(split(at, like), 0))(phi.detach())
            return {"loss": loss.detach(), "gradient": gradient.detach()}

        return observe


def log_and_sign(x: Tensor, p: float) -> Tensor:
    """[…] -> […, 2]: (log|x| / p, sign x), or (-1, e^p x) where |x| < e^-p (arXiv 1606.04474, appendix A)."""
    large = x.abs() >= math.exp(-p)
    log = torch.where(large, x.abs().clamp(min=math.exp(-p)).log() / p, -1.0)
    return torch.stack([log, torch.where(large, x.sign(), math.exp(p) * x)], -1)
