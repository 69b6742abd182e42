"""Update rules on quadratics against their closed forms, in float64.

MAML: Finn et al. 2017, arXiv 1703.03400, eq. 1, and its first order, §5.2. Reptile and the expansions of all three:
Nichol et al. 2018, arXiv 1803.02999, algorithm 1 and §5.1.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.core.types import Batch, Context, Task
from tests.unit.quadratic import (
    FLOAT64,
    LOOPED,
    Bowl,
    Bowls,
    D,
    adapted,
    as_theta,
    bowl,
    maml,
    mean_gradient,
    reptile,
    tickets,
    vector,
)

pytestmark = pytest.mark.usefixtures("torch_threads")

RATE = 0.3
STEPS = (1, 3)
EXACT = {"rtol": 0.0, "atol": 1e-12}
TASKS = tickets(4)
WHOLE = {"batches": torch.arange(D).repeat(3, 1)}

both_speeds = pytest.mark.parametrize("numerics", [FLOAT64, LOOPED], ids=["vectorised", "looped"])
any_steps = pytest.mark.parametrize("steps", STEPS)


@pytest.fixture
def theta() -> Tensor:
    return vector()


@pytest.fixture
def one() -> Bowl:
    return bowl(np.random.default_rng(1))


@pytest.fixture
def two() -> Bowl:
    return bowl(np.random.default_rng(2))


def end(of: Bowl, theta: Tensor, rate: float, steps: int) -> Tensor:
    return of.c + of.contraction(rate, steps) @ (theta - of.c)


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


@any_steps
@pytest.mark.parametrize("first_order", [False, True])
def test_adapted_weights_contract_towards_the_minimum(theta, one, steps, first_order):
    algorithm = maml(RATE, steps, first_order=first_order)
    assert_close(adapted(algorithm, theta, one.batch()), end(one, theta, RATE, steps), **EXACT)
    trace = tuple(algorithm.trace(as_theta(theta), one.batch(), Context(0, "evaluate", 1, {})))
    assert len(trace) == steps + 1
    for j, point in enumerate(trace):
        assert_close(point.phi["w"], end(one, theta, RATE, j), **EXACT)


def test_training_and_evaluation_have_their_own_number_of_steps(theta, one):
    algorithm = maml(RATE, 1)
    algorithm.config = type(algorithm).Config(RATE, 2, 5)
    assert_close(adapted(algorithm, theta, one.batch(), phase="train"), end(one, theta, RATE, 2), **EXACT)
    for phase in ("evaluate", "serve"):
        assert_close(adapted(algorithm, theta, one.batch(), phase=phase), end(one, theta, RATE, 5), **EXACT)


@any_steps
@both_speeds
def test_the_gradient_of_maml_has_its_closed_form(theta, steps, numerics):
    expected = []
    for ticket in TASKS:
        support, query = Bowls().pair(ticket)
        contraction = support.contraction(RATE, steps)
        expected.append(contraction.T @ query.gradient(end(support, theta, RATE, steps)))
    found = mean_gradient(maml(RATE, steps), Bowls(), theta, TASKS, numerics)
    assert_close(found, mean(expected), **EXACT)


@any_steps
@both_speeds
def test_the_gradient_of_first_order_maml_is_another_unless_the_rate_is_zero(theta, steps, numerics):
    pairs = [Bowls().pair(ticket) for ticket in TASKS]
    expected = mean([query.gradient(end(support, theta, RATE, steps)) for support, query in pairs])
    found = mean_gradient(maml(RATE, steps, first_order=True), Bowls(), theta, TASKS, numerics)
    assert_close(found, expected, **EXACT)
    assert (found - mean_gradient(maml(RATE, steps), Bowls(), theta, TASKS, numerics)).norm() > 0.05

    still = [
        mean_gradient(maml(0.0, steps, first_order=drop), Bowls(), theta, TASKS, numerics) for drop in (False, True)
    ]
    assert_close(*still, **EXACT)


@any_steps
@both_speeds
def test_reptile_moves_to_where_plain_training_ends(theta, steps, numerics):
    expected = []
    for ticket in TASKS:
        support, _ = Bowls().pair(ticket)
        expected.append(theta - end(support, theta, RATE, steps))  # before - after: the outer step subtracts
    assert_close(mean_gradient(reptile(RATE, steps), Bowls(), theta, TASKS, numerics), mean(expected), **EXACT)


def test_one_step_of_reptile_is_joint_training(theta):
    joint = RATE * mean([Bowls().pair(ticket)[0].gradient(theta) for ticket in TASKS])
    assert_close(mean_gradient(reptile(RATE, 1), Bowls(), theta, TASKS), joint, **EXACT)


def test_a_sum_of_gradients_at_theta_is_one_long_step_and_not_the_inner_loop(theta, one):
    summed = theta - 3 * RATE * one.gradient(theta)
    assert_close(adapted(maml(3 * RATE, 1), theta, one.batch()), summed, **EXACT)
    for algorithm, noise in ((maml(RATE, 3), {}), (reptile(RATE, 3), WHOLE)):
        inner = adapted(algorithm, theta, one.batch(), noise)
        assert_close(inner, end(one, theta, RATE, 3), **EXACT)
        assert (inner - summed).norm() > 0.1


def two_minibatches(theta: Tensor, one: Bowl, two: Bowl, rate: float, *, first_order: bool) -> Tensor:
    """MAML's gradient, adapting to the first minibatch and judged by the second."""
    task = Task("", one.batch(), two.batch())
    gradient, _ = maml(rate, 1, first_order=first_order).learn(as_theta(theta), task, Context(0, "train", 1, {}))
    return gradient["model"]["w"]


def test_nichol_s_expansions_of_first_order_maml_and_reptile_are_exact_on_quadratics(theta, one, two):
    g1, g2 = one.gradient(theta), two.gradient(theta)
    fomaml = two_minibatches(theta, one, two, RATE, first_order=True)
    assert_close(fomaml, g2 - RATE * two.H @ g1, **EXACT)

    rows = Batch(*(torch.cat(parts) for parts in zip(one.batch(), two.batch(), strict=True)))
    task = Task("", rows, rows)
    context = Context(0, "train", 1, {"batches": torch.arange(2 * D).reshape(2, D)})
    delta, _ = reptile(RATE, 2).learn(as_theta(theta), task, context)
    assert_close(delta["model"]["w"] / RATE, g1 + g2 - RATE * two.H @ g1, **EXACT)


def test_nichol_s_expansion_of_maml_misses_a_term_of_second_order(theta, one, two):
    def residual(rate: float) -> Tensor:
        g1, g2 = one.gradient(theta), two.gradient(theta)
        expansion = g2 - rate * two.H @ g1 - rate * one.H @ g2
        return two_minibatches(theta, one, two, rate, first_order=False) - expansion

    coarse, fine = residual(0.1).norm(), residual(0.01).norm()
    assert coarse > 1e-4
    assert_close(coarse / fine, torch.tensor(100.0, dtype=torch.float64), rtol=1e-6, atol=0)
    assert_close(residual(RATE), RATE**2 * one.H @ two.H @ one.gradient(theta), **EXACT)
