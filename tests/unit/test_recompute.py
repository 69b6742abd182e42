"""Inner steps that are computed again in the backward pass: the gradient of the plain unroll, for every rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from pipeline.core import inner
from pipeline.core.inner import SGD, Adam, ByPrefix, LeafwiseSGD, Momentum, Rule, beside, last
from pipeline.core.recompute import Partial, recomputed, shows_tensors
from pipeline.core.types import Params
from pipeline.engine.living import Living
from pipeline.engine.program import Program
from pipeline.families.gradient import GradientBased
from pipeline.testing.case import vector_of
from tests.contract.cases import ALGORITHMS, Described, case_of, leading

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS, TASKS = 12, 3
X = torch.randn((TASKS, 5, 2), generator=torch.Generator().manual_seed(0))
START = {"a/w": torch.tensor([0.3, -0.2]), "b/w": torch.tensor([[0.1, 0.4], [0.2, -0.5]])}
RATES = {"a/w": torch.full((2,), 0.05), "b/w": torch.tensor(0.1)}
FIXED = {"c": torch.tensor([0.7, 0.9])}


def error(x: Tensor, phi: Params, j: int) -> Tensor:
    return ((x @ phi["b/w"]).tanh() @ phi["a/w"] * phi["c"].sum() - x.sum(-1) - j).square().mean()


def rates(given: Params, j: int) -> Params:
    return {name: leaf / (j + 1) for name, leaf in given.items()}


def rule_of(name: str, given: Params) -> Rule:
    rules: dict[str, Rule] = {
        "sgd": SGD(given["b/w"]),
        "momentum": Momentum(0.05, 0.9, 0.1, 0.01),
        "leafwise": LeafwiseSGD(Partial(rates, (given,))),
        "adam": Adam(0.05, beta1=0.5),
    }
    return rules.get(name) or ByPrefix("a/", rules["adam"], rules["leafwise"])


def gradient(rule: str, dtype: torch.dtype) -> list[Tensor]:
    """Of all that is given, by one backward pass through the tasks together, as a worker takes it."""
    given = [
        {name: leaf.to(dtype, copy=True).requires_grad_() for name, leaf in one.items()}
        for one in (START, RATES, FIXED)
    ]

    def end(x: Tensor) -> Tensor:
        loss = beside(given[2], Partial(error, (x,)))
        phi = last(inner.iterate(loss, given[0], STEPS, rule_of(rule, given[1]), first_order=False))
        return phi["a/w"].sum() + phi["b/w"].square().sum()

    leaves = [leaf for one in given for leaf in one.values()]
    value = torch.func.vmap(end)(X.to(dtype)).sum()
    return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "leafwise", "adam", "prefix"])
def test_the_gradient_is_that_of_the_plain_unroll(rule: str, monkeypatch):
    found = gradient(rule, torch.float64)
    monkeypatch.setattr(inner, "KEPT_STEPS", STEPS)
    for one, plain in zip(found, gradient(rule, torch.float64), strict=True):
        assert_close(one, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_where_no_step_shares_a_learned_tensor_the_bits_are_the_same(rule: str, monkeypatch):
    found = gradient(rule, torch.float32)[: len(START)]
    monkeypatch.setattr(inner, "KEPT_STEPS", STEPS)
    assert all(map(torch.equal, found, gradient(rule, torch.float32)))


def test_derivatives_of_any_order_are_exact():
    def double(x: Tensor) -> Tensor:
        return recomputed(lambda given: given[0].sin() * given[1], (x, x.detach()))

    x = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: recomputed(lambda one: one.sin().square(), x), x)
    assert torch.equal(torch.func.vmap(torch.func.grad(double))(x), x.cos() * x)


def test_a_program_of_the_gradient_computes_the_steps_again_too(monkeypatch):
    """It leaves out what was computed before, but not these steps."""
    loss, given = Partial(error, (X[0],)), FIXED | START

    def slope(start: Tensor) -> Tensor:
        leaf = start.detach().requires_grad_()
        phi = last(inner.iterate(loss, given | {"b/w": leaf}, 9, SGD(0.01), first_order=False))
        return torch.autograd.grad(phi["b/w"].sum(), leaf)[0]

    def peak(compute: Callable[[Tensor], Tensor]) -> tuple[int, Tensor]:
        with Living() as living:
            found = compute(START["b/w"])
        return living.peak, found

    kept, expected = peak(slope)
    monkeypatch.setattr(inner, "KEPT_STEPS", 4)
    eager, found = peak(slope)
    leaves, structure = pytree.tree_flatten((START["b/w"],))
    program = Program(slope, leaves, structure)
    traced, same = peak(lambda start: program([start]))
    assert torch.equal(found, expected)
    assert torch.equal(same, expected)
    assert max(eager, traced) < 0.7 * kept, (eager, traced, kept)


def hidden(phi: Params, j: int) -> Tensor:
    return error(X[0], phi, j)


def test_a_loss_that_hides_its_tensors_is_not_computed_again():
    x = X[0]
    assert shows_tensors(Partial(error, (x,)))
    assert shows_tensors(beside(FIXED, Partial(error, (x,))))
    assert not shows_tensors(hidden)
    assert not shows_tensors(beside(FIXED, hidden))
    assert not shows_tensors(Partial(lambda phi, j: error(x, phi, j), ()))


class Own:
    """A user's rule: no tuple, and its rates are a function's that closes over them."""

    def __init__(self, given: Params) -> None:
        self.given = given

    def start(self, phi: Params) -> Params:
        return {}

    def step(self, phi: Params, gradient: Params, state: Params, j: int) -> tuple[Params, Params]:
        return {name: value - self.given[name] * gradient[name] for name, value in phi.items()}, state


class Named(NamedTuple):
    """Another, a tuple with such a function."""

    rates: Callable[[int], Params]

    def start(self, phi: Params) -> Params:
        return {}

    def step(self, phi: Params, gradient: Params, state: Params, j: int) -> tuple[Params, Params]:
        return Own(self.rates(j)).step(phi, gradient, state, j)


@pytest.mark.parametrize(
    "rule", [Own, lambda given: Named(lambda j: given), lambda given: LeafwiseSGD(Partial(lambda j: given, ()))]
)
def test_a_rule_that_hides_its_tensors_gets_their_gradient(rule: Callable[[Params], Rule]):
    given = {name: leaf.double().requires_grad_() for name, leaf in RATES.items()}
    loss = Partial(error, (X[0].double(),))
    start = {name: leaf.double() for name, leaf in (FIXED | START).items()}

    def slopes(of: Rule) -> tuple[Tensor, ...]:
        phi = last(inner.iterate(loss, start, STEPS, of, first_order=False))
        return torch.autograd.grad(phi["a/w"].sum() + phi["b/w"].sum(), list(given.values()))

    rates = given | {"c": torch.tensor(0.0, dtype=torch.float64)}
    for found, expected in zip(slopes(rule(rates)), slopes(LeafwiseSGD(Partial(_same, (rates,)))), strict=True):
        assert expected.abs().max() > 0
        assert_close(found, expected, rtol=1e-10, atol=1e-12)


def _same(given: Params, j: int) -> Params:
    return given


def one_of_each() -> list[Described]:
    """A small case of each algorithm whose inner steps are differentiated."""
    wanted = {name for name, kind in ALGORITHMS.items() if issubclass(kind, GradientBased)} | {"metagan_maml", "mbpa"}
    cases = sorted((one for one in leading() if one.algorithm in wanted), key=lambda one: (one.net == "mlp", one.id))
    return list({one.algorithm: one for one in cases}.values())  # the last, on an MLP where there is one


@pytest.mark.parametrize("one", one_of_each(), ids=lambda one: one.id)
def test_every_algorithm_learns_the_same(one: Described, small_images, monkeypatch):
    case = case_of(one, small_images)
    config = case.algorithm.config
    fewer = {field.name: 3 for field in dataclasses.fields(config) if field.name in ("inner_steps", "local_steps")}
    case.algorithm.config = dataclasses.replace(config, **fewer)
    theta = case.layout().unpack(torch.from_numpy(vector_of(case).copy()))
    task, context = case.drawn(0)
    plain, _ = case.algorithm.learn(theta, task, context)
    monkeypatch.setattr(inner, "KEPT_STEPS", 1)
    found, _ = case.algorithm.learn(theta, task, context)
    for group, leaves in plain.items():
        for name, leaf in leaves.items():
            assert_close(found[group][name], leaf, rtol=1e-9, atol=1e-12)
