"""ANIL, Meta-SGD, MAML++ and iMAML on quadratics against their closed forms, in float64.

Meta-SGD: Li et al. 2017, arXiv 1707.09835, §3. MAML++: Antoniou et al. 2019, arXiv 1810.09502, §4. iMAML: Rajeswaran et
al. 2019, arXiv 1909.04630, Lemma 1. ANIL: Raghu et al. 2020, arXiv 1909.09157, §4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms.anil import ANIL
from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.mamlpp import MAMLPP, loss_weights
from pipeline.algorithms.metasgd import MetaSGD
from pipeline.core.inner import SGD, conjugate_gradient, hessian_free, unroll
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser
from tests.unit.quadratic import Bowl, D, Linear, bowl, half_square, maml, vector

pytestmark = pytest.mark.usefixtures("torch_threads")

EXACT = {"rtol": 0.0, "atol": 1e-11}
EYE = torch.eye(D, dtype=torch.float64)
MODEL = NormalisedNet(Linear(None, (D,), None, normalised=False), "none", (D,))
RATES = torch.tensor([0.3, 0.1, 0.2, 0.05], dtype=torch.float64)


@pytest.fixture
def support() -> Bowl:
    return bowl(np.random.default_rng(1))


@pytest.fixture
def query() -> Bowl:
    return bowl(np.random.default_rng(2))


def learn(algorithm: Any, theta: MetaParams, support: Bowl, query: Bowl, step: int = 1) -> MetaParams:
    task = Task("task", support.batch(), query.batch())
    gradient, _ = algorithm.learn(theta, task, Context(step, "train", 1, {}))
    return gradient


def path(of: Bowl, theta: Tensor, rates: list[Tensor]) -> list[Tensor]:
    """phi before and after each step, with a rate for each step."""
    found = [theta]
    for rate in rates:
        found.append(found[-1] - rate * of.gradient(found[-1]))
    return found


def test_the_gradients_of_meta_sgd_are_those_of_its_start_and_of_its_rates(support, query):
    theta = vector()
    gradient = learn(
        MetaSGD(MetaSGD.Config(), MODEL, half_square), {"model": {"w": theta}, "inner_lr": {"w": RATES}}, support, query
    )
    phi = theta - RATES * support.gradient(theta)
    assert_close(gradient["inner_lr"]["w"], -support.gradient(theta) * query.gradient(phi), **EXACT)
    assert_close(gradient["model"]["w"], (EYE - RATES[:, None] * support.H).T @ query.gradient(phi), **EXACT)


def mamlpp(steps: int, **changes: Any) -> MAMLPP:
    off = {"multi_step_until": 0, "inner_steps": steps, "eval_inner_steps": steps}
    return MAMLPP(MAMLPP.Config(**{**off, **changes}), MODEL, half_square)


def test_the_gradient_of_the_rate_of_each_step(support, query):
    theta, rates = vector(), RATES[:3]
    gradient = learn(mamlpp(3), {"model": {"w": theta}, "inner_lr": {"": rates}}, support, query)
    phis = path(support, theta, list(rates))
    back = query.gradient(phis[-1])
    for j in (2, 1, 0):
        assert_close(gradient["inner_lr"][""][j], -support.gradient(phis[j]) @ back, **EXACT)
        back = (EYE - rates[j] * support.H).T @ back
    assert_close(gradient["model"]["w"], back, **EXACT)


def test_more_steps_at_evaluation_use_the_last_rate(support):
    theta, rates = vector(), RATES[:2]
    algorithm = mamlpp(2, eval_inner_steps=4)
    trace = algorithm.trace(
        {"model": {"w": theta}, "inner_lr": {"": rates}}, support.batch(), Context(0, "evaluate", 1, {})
    )
    for point, expected in zip(trace, path(support, theta, [*rates, rates[1], rates[1]]), strict=True):
        assert_close(point.phi["w"], expected, **EXACT)


@pytest.mark.parametrize("step", [1, 2, 5, 10, 99])
def test_a_loss_after_every_step_has_the_gradient_of_their_weighted_sum(support, query, step):
    theta, rate, until = vector(), 0.3, 10
    algorithm = mamlpp(3, learn_rates=False, inner_lr=rate, multi_step_until=until)
    gradient = learn(algorithm, {"model": {"w": theta}}, support, query, step)
    phis, weights = path(support, theta, [torch.tensor(rate, dtype=torch.float64)] * 3), loss_weights(3, step, until)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[:2] == [max(0.0, 1 - (step - 1) / until) / 3] * 2
    expected = sum(
        weight * support.contraction(rate, j).T @ query.gradient(phis[j]) for j, weight in enumerate(weights, 1)
    )
    assert_close(gradient["model"]["w"], expected, **EXACT)


def test_8_all_losses_count_alike_in_the_first_step_and_the_last_one_alone_after_the_annealing():
    assert loss_weights(4, 1, 10) == [0.25] * 4
    assert loss_weights(4, 10, 10)[0] == pytest.approx(0.1 / 4)
    assert loss_weights(4, 11, 10) == loss_weights(4, 1, 0) == [0.0, 0.0, 0.0, 1.0]


def test_second_derivatives_come_in_after_their_step(support, query):
    theta = vector()
    algorithm = mamlpp(2, learn_rates=False, inner_lr=0.3, first_order_until=5)
    early, late = (learn(algorithm, {"model": {"w": theta}}, support, query, step)["model"]["w"] for step in (5, 6))
    plain, first = (
        learn(maml(0.3, 2, first_order=first), {"model": {"w": theta}}, support, query)["model"]["w"]
        for first in (False, True)
    )
    assert_close(early, first, **EXACT)
    assert_close(late, plain, **EXACT)
    assert not torch.allclose(early, late)


def imaml(steps: int, proximal: float, solver_steps: int = D, rate: float = 0.1, solver: Any = "gradient") -> IMAML:
    return IMAML(IMAML.Config(rate, steps, steps, proximal, solver_steps, solver), MODEL, half_square)


def implicit(support: Bowl, query: Bowl, theta: Tensor, proximal: float) -> Tensor:
    minimum = torch.linalg.solve(support.H + proximal * EYE, support.H @ support.c + proximal * theta)
    return torch.linalg.solve(EYE + support.H / proximal, query.gradient(minimum))


@pytest.mark.parametrize(("solver", "steps"), [("gradient", 400), ("hessian_free", 1)])
@pytest.mark.parametrize("proximal", [0.5, 2.0])
def test_the_gradient_of_imaml_at_the_minimum_is_the_implicit_one(support, query, proximal, solver, steps):
    theta = vector()
    algorithm = imaml(steps, proximal, solver=solver)
    task = Task("task", support.batch(), query.batch())
    gradient, score = algorithm.learn({"model": {"w": theta}}, task, Context(1, "train", 1, {}))
    assert_close(gradient["model"]["w"], implicit(support, query, theta, proximal), **EXACT)
    assert score.metrics["solver_residual"] < 1e-12
    assert score.metrics["inner_gradient"] < 1e-12


def test_the_unrolled_gradient_comes_to_the_implicit_one_geometrically(support, query):
    theta, proximal = vector().requires_grad_(), 2.0
    expected = implicit(support, query, theta.detach(), proximal)

    def loss(phi: Params, j: int) -> Tensor:
        there = phi["w"] - support.c
        return 0.5 * there @ support.H @ there + 0.5 * proximal * (phi["w"] - theta).square().sum()

    errors = []
    for steps in (5, 20, 80):
        phi = unroll(loss, {"w": theta}, steps, SGD(0.2), first_order=False)[-1]["w"]
        there = phi - query.c
        (gradient,) = torch.autograd.grad(0.5 * there @ query.H @ there, theta)
        errors.append((gradient - expected).norm().item())
    assert errors[0] > 30 * errors[1] > 30 * 1000 * errors[2]
    assert errors[2] < 1e-9


@pytest.mark.parametrize("bend", [1.0, -1.0], ids=["a bowl", "a ridge in each direction"])
def test_no_hessian_free_step_climbs_where_gradient_descent_diverges(bend):
    steepness = torch.tensor([1.0, 30.0, 1000.0], dtype=torch.float64)

    def loss(phi: Params, j: int) -> Tensor:
        return (steepness * (0.25 * phi["w"] ** 4 + 0.5 * bend * phi["w"] ** 2)).sum()

    def walk(start: Tensor) -> tuple[Tensor, Tensor]:
        path = [phi["w"] for phi in hessian_free(loss, {"w": start}, 10, D)]
        return torch.stack(path), torch.stack([loss({"w": phi}, 0) for phi in path])

    starts = torch.from_numpy(np.random.default_rng(8).uniform(-1.0, 1.0, (20, 3)))
    paths, heights = torch.func.vmap(walk)(starts)
    assert (heights.diff(dim=1) <= 1e-12).all()
    assert (heights[:, 1] < heights[:, 0]).all()
    if bend > 0:
        assert_close(paths[:, -1], torch.zeros(20, 3, dtype=torch.float64), **EXACT)
    for start, walked in zip(starts, paths, strict=True):
        assert_close(walk(start)[0], walked, **EXACT)
    assert not unroll(loss, {"w": starts[0]}, 10, SGD(0.01), first_order=True)[-1]["w"].isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 6])
def test_conjugate_gradient_arrives_in_as_many_steps_as_there_are_dimensions(size):
    of, b = bowl(np.random.default_rng(5), size), torch.from_numpy(np.random.default_rng(6).normal(size=size))
    expected = torch.linalg.solve(of.H, b)

    def operator(v: Params) -> Params:
        both = of.H @ torch.cat([v["a"], v["b"]])
        return {"a": both[: size // 2], "b": both[size // 2 :]}

    parts = {"a": b[: size // 2], "b": b[size // 2 :]}
    for steps in (size, size + 3):  # and stays there
        x, residual = conjugate_gradient(operator, parts, steps)
        assert_close(torch.cat([x["a"], x["b"]]), expected, **EXACT)
        assert residual < 1e-12
    zero, residual = conjugate_gradient(operator, {name: part * 0 for name, part in parts.items()}, 3)
    assert not any(part.any() for part in zero.values())
    assert residual == 0.0


def test_conjugate_gradient_stays_where_the_operator_curves_down():
    """Of an indefinite operator it keeps what it has found; where the first direction curves down, that is b."""
    diagonal = torch.tensor([4.0, 1.0, -1.0], dtype=torch.float64)

    def operator(v: Params) -> Params:
        return {"w": diagonal * v["w"]}

    b = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    found = [conjugate_gradient(operator, {"w": b}, steps)[0]["w"] for steps in range(1, 7)]
    assert_close(found[0], b * (b @ b) / (b @ (diagonal * b)), **EXACT)
    # The second direction still curves up, the third does not: it would lead to the saddle point.
    assert not torch.equal(found[1], found[0])
    assert all(torch.equal(later, found[1]) for later in found[2:])
    down = torch.tensor([0.1, 0.1, 1.0], dtype=torch.float64)
    x, residual = conjugate_gradient(operator, {"w": down}, 5)
    assert torch.equal(x["w"], down)
    assert residual == 1.0


def test_a_large_proximal_weight_leaves_the_query_gradient_and_a_small_one_nothing(support, query):
    theta = vector()
    strong = learn(imaml(50, 1e9, rate=1e-10), {"model": {"w": theta}}, support, query)["model"]["w"]
    assert_close(strong, query.gradient(theta), rtol=0.0, atol=1e-6)
    weak = learn(imaml(1000, 1e-9, rate=0.5), {"model": {"w": theta}}, support, query)["model"]["w"]
    assert weak.norm() < 1e-7


class HeadedLinear(Net):
    """Outputs x · theta, where the last coordinates are the head's and the others the body's."""

    def __init__(self, body: int) -> None:
        self.body, self.outputs = body, 1

    def init(self, rng: np.random.Generator) -> Params:
        raise NotImplementedError

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        return torch.cat([x[:, self.body :], (x[:, : self.body] @ params["body"]).unsqueeze(1)], 1)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        return features[:, :-1] @ params["head/w"] + features[:, -1]


@pytest.mark.parametrize("steps", [1, 3])
def test_anil_steps_the_head_alone(support, query, steps):
    theta, rate, body = vector(), 0.3, 2
    algorithm = ANIL(ANIL.Config(rate, steps, steps), NormalisedNet(HeadedLinear(body), "none", (D,)), half_square)
    parts = {"body": theta[:body], "head/w": theta[body:]}
    gradient = learn(algorithm, {"model": parts}, support, query)["model"]
    mask = torch.diag((torch.arange(D) >= body).double())
    step = EYE - rate * mask @ support.H
    phi = theta
    for _ in range(steps):
        phi = phi - rate * mask @ support.gradient(phi)
    expected = torch.linalg.matrix_power(step, steps).T @ query.gradient(phi)
    assert_close(torch.cat([gradient["body"], gradient["head/w"]]), expected, **EXACT)
    trace = tuple(algorithm.trace({"model": parts}, support.batch(), Context(0, "evaluate", 1, {})))
    assert all(torch.equal(point.phi["body"], theta[:body]) for point in trace)
    assert_close(trace[-1].phi["head/w"], phi[body:], **EXACT)


def test_equal_rates_are_maml(support, query):
    theta, rate = vector(), 0.3
    plain = learn(maml(rate, 1), {"model": {"w": theta}}, support, query)["model"]["w"]
    for algorithm, rates in (
        (MetaSGD(MetaSGD.Config(rate), MODEL, half_square), torch.full((D,), rate, dtype=torch.float64)),
        (mamlpp(1), torch.tensor([rate], dtype=torch.float64)),
    ):
        groups = algorithm.init(np.random.default_rng(0))
        leaves = dict.fromkeys(groups["inner_lr"], rates)
        assert_close(
            learn(algorithm, {"model": {"w": theta}, "inner_lr": leaves}, support, query)["model"]["w"], plain, **EXACT
        )


def test_batch_is_used_as_given():
    """The helper above writes a bowl as examples: their loss is the bowl's."""
    of, theta = bowl(np.random.default_rng(1)), vector()
    batch: Batch = of.batch()
    there = theta - of.c
    assert_close(half_square(batch.x @ theta, batch.y).loss, 0.5 * there @ of.H @ there, **EXACT)
