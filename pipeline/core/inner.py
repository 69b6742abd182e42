"""The inner loop: steps of gradient descent as functions of their parameters, differentiable end to end.

``torch.func.grad`` re-evaluates the gradient at each iterate (never a sum of gradients at theta) and keeps the graph,
so an outer backward through ``unroll`` is exact to any order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.core.recompute import Partial, recomputed, shows_tensors
from pipeline.core.types import Params

T = TypeVar("T")
State = dict[str, Params]
InnerLoss = Callable[[Params, int], Tensor]
"""The support loss at phi for inner step j."""
STEP_FRACTIONS = (1.0, 0.25, 0.0625, 0.015625, 0.00390625, 0.0009765625, 0.0)
"""The fractions of a Newton step that the line search tries: 1, powers of a quarter, and 0."""


class Rule(Protocol):
    """One inner optimizer as two pure functions. It is a tree (a ``NamedTuple``) of the tensors that it holds."""

    def start(self, phi: Params) -> State: ...

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        """``j`` is the number of the inner step, from 0."""
        ...


class SGD(NamedTuple):
    """phi <- phi - rate · gradient."""

    rate: float | Tensor

    def start(self, phi: Params) -> State:
        return {}

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        return {name: value - self.rate * gradient[name] for name, value in phi.items()}, state


class Momentum(NamedTuple):
    """velocity <- momentum · velocity + (1 - dampening) · (gradient + decay · phi); phi <- phi - rate · velocity.

    The first velocity is the first gradient, whole: torch's SGD.
    """

    rate: float
    momentum: float
    dampening: float
    decay: float

    def start(self, phi: Params) -> State:
        return {}

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        velocity = {name: gradient[name] + self.decay * value for name, value in phi.items()}
        if j:
            old = state["velocity"]
            velocity = {name: self.momentum * old[name] + (1 - self.dampening) * v for name, v in velocity.items()}
        return {name: value - self.rate * velocity[name] for name, value in phi.items()}, {"velocity": velocity}


class LeafwiseSGD(NamedTuple):
    """phi <- phi - rates ∘ gradient, with rates for each leaf (of its shape, or one for all of it) and inner step."""

    rates: Partial
    """From the number of an inner step to the rates."""

    def start(self, phi: Params) -> State:
        return {}

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        rates = self.rates(j)
        return {name: value - rates[name] * gradient[name] for name, value in phi.items()}, state


class Adam(NamedTuple):
    """Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1) with moments that start at zero for each task.

    ``beta1=0`` is Reptile's inner optimizer. Where a gradient is 0, the square root's slope counts as 0, not as
    infinite.
    """

    rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def start(self, phi: Params) -> State:
        zeros = {name: torch.zeros_like(value) for name, value in phi.items()}
        some = next(iter(phi.values()))
        return {
            "m": zeros,
            "v": dict(zeros),
            "power": {"beta1": torch.ones_like(some.sum()), "beta2": torch.ones_like(some.sum())},
        }

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        power1, power2 = state["power"]["beta1"] * self.beta1, state["power"]["beta2"] * self.beta2
        m = {name: self.beta1 * state["m"][name] + (1 - self.beta1) * g for name, g in gradient.items()}
        v = {name: self.beta2 * state["v"][name] + (1 - self.beta2) * g * g for name, g in gradient.items()}
        moved = {
            name: value - self.rate * (m[name] / (1 - power1)) / (_root(v[name] / (1 - power2)) + self.epsilon)
            for name, value in phi.items()
        }
        return moved, {"m": m, "v": v, "power": {"beta1": power1, "beta2": power2}}


class ByPrefix(NamedTuple):
    """One rule for the leaves whose names begin with ``prefix``, and another for all others. Each keeps its state."""

    prefix: str
    own: Rule
    others: Rule

    def start(self, phi: Params) -> State:
        states = {which: getattr(self, which).start(part) for which, part in self._parts(phi).items()}
        return {f"{which}/{name}": leaves for which, state in states.items() for name, leaves in state.items()}

    def step(self, phi: Params, gradient: Params, state: State, j: int) -> tuple[Params, State]:
        moved: Params = {}
        after: State = {}
        slopes = self._parts(gradient)
        for which, part in self._parts(phi).items():
            begins = f"{which}/"
            mine = {name.removeprefix(begins): leaves for name, leaves in state.items() if name.startswith(begins)}
            stepped, kept = getattr(self, which).step(part, slopes[which], mine, j)
            moved |= stepped
            after |= {begins + name: leaves for name, leaves in kept.items()}
        return moved, after

    def _parts(self, params: Params) -> dict[str, Params]:
        own = {name: leaf for name, leaf in params.items() if name.startswith(self.prefix)}
        return {"own": own, "others": {name: leaf for name, leaf in params.items() if name not in own}}


OptimizerName = Literal["sgd", "adam"]


def optimizer(name: OptimizerName, rate: float) -> Rule:
    """The inner optimizer of this name; Adam has its published momentum."""
    return SGD(rate) if name == "sgd" else Adam(rate)


def beside(fixed: Params, loss: InnerLoss) -> Partial:
    """The loss of leaves of which it also sees ``fixed``, which no step changes."""
    return Partial(_beside, (fixed, loss))


def _beside(fixed: Params, loss: InnerLoss, phi: Params, j: int) -> Tensor:
    return loss(fixed | phi, j)


KEPT_STEPS = 10
"""Inner steps whose graph is kept until the backward pass. More are computed again there, in about sqrt(steps) blocks.

So 100 steps need the memory of 10 and of ten more phi. It costs one more forward pass of these steps.
"""


def iterate(loss: InnerLoss, theta: Params, steps: int, rule: Rule, *, first_order: bool) -> Iterator[Params]:
    """Yields phi before adaptation and after each of ``steps`` inner steps, and keeps none of them.

    With ``first_order`` the inner gradients are constants (MAML, arXiv 1703.03400, §5.2: d phi / d theta = 1), and no
    graph is kept of them. Otherwise more than ``KEPT_STEPS`` steps are computed again in the backward pass, if ``loss``
    is a ``Partial`` and ``rule`` a tuple: the tensors that another function closes over, or that an object of another
    class holds, cannot be found.
    """
    phi, state = theta, rule.start(theta)
    yield phi
    block = 1
    if steps > KEPT_STEPS and not first_order and torch.is_grad_enabled() and shows_tensors((loss, rule)):
        block = math.isqrt(steps - 1) + 1
    for first in range(0, steps, block):
        walk = partial(_walk, range(first, min(first + block, steps)), first_order)
        start = loss, rule, phi, state
        path, state = recomputed(walk, start) if block > 1 else walk(start)
        phi = path[-1]
        yield from path
        del path


def _walk(
    numbers: range, first_order: bool, start: tuple[InnerLoss, Rule, Params, State]
) -> tuple[list[Params], State]:
    """phi after each of these inner steps, and the rule's state after the last."""
    loss, rule, phi, state = start
    path = []
    for j in numbers:
        at = {name: value.detach() for name, value in phi.items()} if first_order else phi
        gradient = torch.func.grad(loss)(at, j)
        if first_order:
            gradient = {name: value.detach() for name, value in gradient.items()}
        phi, state = rule.step(phi, gradient, state, j)
        path.append(phi)
    return path, state


def last(path: Iterable[T]) -> T:
    """The last element of a path of one or more. Those before it are let go."""
    return deque(path, maxlen=1)[0]


def unroll(loss: InnerLoss, theta: Params, steps: int, rule: Rule, *, first_order: bool) -> tuple[Params, ...]:
    """All iterates; length ``steps + 1``."""
    return tuple(iterate(loss, theta, steps, rule, first_order=first_order))


def hessian_free(loss: InnerLoss, theta: Params, steps: int, solver_steps: int) -> Iterator[Params]:
    """Yields phi before adaptation and after each of ``steps`` Newton steps, and keeps neither them nor a graph.

    Martens, Deep learning via Hessian-free optimization, ICML 2010: the direction solves H(phi) d = gradient by
    ``solver_steps`` of conjugate gradient. Of ``STEP_FRACTIONS`` it takes the one with the lowest loss. One fraction is
    0, so no step increases the loss, whatever its curvature.
    """
    phi = {name: value.detach() for name, value in theta.items()}
    yield phi
    for j in range(steps):
        phi = _newton(loss, phi, j, solver_steps)
        yield phi


def _newton(loss: InnerLoss, phi: Params, j: int, solver_steps: int) -> Params:
    def height(at: Params) -> Tensor:
        return loss(at, j)

    gradient, curve = torch.func.vjp(torch.func.grad(height), phi)[:2]
    direction, _ = conjugate_gradient(lambda v: curve(v)[0], gradient, solver_steps)

    def moved(reach: Tensor) -> Params:
        return {name: value - reach * direction[name] for name, value in phi.items()}

    reaches = next(iter(phi.values())).new_tensor(STEP_FRACTIONS)
    heights = torch.func.vmap(lambda reach: height(moved(reach)))(reaches).nan_to_num(nan=torch.inf)
    found = moved(reaches.gather(0, heights.argmin(0, keepdim=True)))
    return {name: value.detach() for name, value in found.items()}


def conjugate_gradient(operator: Callable[[Params], Params], b: Params, steps: int) -> tuple[Params, Tensor]:
    """x with ``operator`` x = b, for a symmetric operator, and ‖b - operator x‖ / ‖b‖.

    Hestenes & Stiefel (1952). It starts at 0 and always takes ``steps`` steps, so that it can be vectorised. After
    convergence x no longer changes. At negative curvature x stops too (Steihaug 1983), since the method would diverge
    there; at negative curvature in the first direction x is b. The residual is the recursively updated one, which costs
    no further call.
    """
    x = {name: torch.zeros_like(value) for name, value in b.items()}
    r, p, rr = b, b, _dot(b, b)
    going, moved = torch.ones_like(rr, dtype=torch.bool), torch.zeros_like(rr, dtype=torch.bool)
    for _ in range(steps):
        ap = operator(p)
        curvature = _dot(p, ap)
        going = going & (curvature > 0)
        moved = moved | going
        alpha = torch.where(going, _ratio(rr, curvature), 0.0)
        x = {name: x[name] + alpha * p[name] for name in x}
        r = {name: r[name] - alpha * ap[name] for name in r}
        before, rr = rr, _dot(r, r)
        beta = _ratio(rr, before)
        p = {name: r[name] + beta * p[name] for name in p}
    return {name: torch.where(moved, x[name], b[name]) for name in x}, _ratio(norm(r), norm(b))


def norm(params: Params) -> Tensor:
    """The 2-norm of all leaves together."""
    return _dot(params, params).sqrt()


def _root(x: Tensor) -> Tensor:
    some = x > 0
    return torch.where(some, torch.where(some, x, 1.0).sqrt(), 0.0)


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """The quotient, or 0 where the divisor is 0."""
    nothing = b == 0
    return torch.where(nothing, torch.zeros_like(a), a / torch.where(nothing, torch.ones_like(b), b))
