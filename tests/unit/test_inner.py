"""The inner loop: torch's own optimizers as the reference, exact derivatives, nothing written in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms.reptile import Reptile
from pipeline.core.inner import SGD, Adam, Rule, unroll
from pipeline.core.types import Batch, Context, Params, Task
from tests.unit.quadratic import D, adapted, bowl, half_square, maml, reptile, vector

pytestmark = pytest.mark.usefixtures("torch_threads")

BOWL = bowl(np.random.default_rng(0), 3)
EXACT = {"rtol": 0.0, "atol": 1e-12}


def start() -> Params:
    rng = np.random.default_rng(1)
    return {"w": torch.from_numpy(rng.normal(size=3)), "b": torch.from_numpy(rng.normal(size=(2, 2)))}


def loss(phi: Params, j: int) -> Tensor:
    """Not convex, another at each step, and coupled between the leaves."""
    return (j + 1) * (phi["w"] - BOWL.c) @ BOWL.H @ (phi["w"] - BOWL.c) + phi["w"].sum() * phi["b"].sin().sum()


@pytest.mark.parametrize(
    ("rule", "optimizer", "options"),
    [
        (SGD(0.05), torch.optim.SGD, {"lr": 0.05}),
        (Adam(0.05), torch.optim.Adam, {"lr": 0.05}),
        (Adam(0.05, beta1=0.0), torch.optim.Adam, {"lr": 0.05, "betas": (0.0, 0.999)}),
        (Adam(0.05, 0.5, 0.9, 1e-3), torch.optim.Adam, {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3}),
    ],
)
def test_steps_are_those_of_torch_s_optimizer(
    rule: Rule, optimizer: type[torch.optim.Optimizer], options: dict[str, object]
):
    path = unroll(loss, start(), 6, rule, first_order=True)
    leaves = {name: value.clone().requires_grad_() for name, value in start().items()}
    reference = optimizer(leaves.values(), **options)
    assert len(path) == 7
    for j, phi in enumerate(path):
        for name, leaf in leaves.items():
            assert_close(phi[name], leaf.detach(), **EXACT)
        reference.zero_grad()
        loss(leaves, j).backward()
        reference.step()


@pytest.mark.parametrize("rule", [SGD(0.05), Adam(0.05, beta1=0.5)], ids=["sgd", "adam"])
def test_the_derivative_of_the_end_with_respect_to_the_beginning_is_exact(rule: Rule):
    def end(w: Tensor, b: Tensor) -> Tensor:
        phi = unroll(loss, {"w": w, "b": b}, 3, rule, first_order=False)[-1]
        return (phi["w"].square().sum() + phi["b"].cos().sum()).unsqueeze(0)

    leaves = [value.requires_grad_() for value in start().values()]
    assert torch.autograd.gradcheck(end, leaves, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_first_order_keeps_the_identity_and_no_graph_of_the_gradients():
    leaves = {name: value.requires_grad_() for name, value in start().items()}
    phi = unroll(loss, leaves, 3, SGD(0.05), first_order=True)[-1]
    (gradient,) = torch.autograd.grad(phi["w"].sum(), leaves["w"])
    assert torch.equal(gradient, torch.ones(3, dtype=torch.float64))


def test_both_orders_walk_the_same_path():
    first, second = (unroll(loss, start(), 4, SGD(0.05), first_order=order)[-1] for order in (True, False))
    assert torch.equal(first["w"], second["w"])


def test_theta_is_not_written():
    theta = start()
    before = {name: value.clone() for name, value in theta.items()}
    for rule in (SGD(0.1), Adam(0.1)):
        unroll(loss, theta, 3, rule, first_order=True)
    assert all(torch.equal(theta[name], value) for name, value in before.items())


def test_no_steps_is_theta_itself():
    theta = start()
    assert unroll(loss, theta, 0, SGD(0.1), first_order=False) == (theta,)


def test_adam_forgets_between_tasks():
    """A task's answer does not depend on the tasks before it: the authors' code carries moments along."""
    one, other = bowl(np.random.default_rng(3)), bowl(np.random.default_rng(4))
    algorithm = reptile(0.1, 3)
    algorithm.config = Reptile.Config(0.1, 3, D, 3, D, "adam")
    noise = {"batches": torch.arange(D).repeat(3, 1)}
    first = adapted(algorithm, vector(), one.batch(), noise)
    adapted(algorithm, vector(), other.batch(), noise)
    assert torch.equal(adapted(algorithm, vector(), one.batch(), noise), first)


@pytest.mark.parametrize(("phase", "steps", "batch"), [("train", 7, 4), ("evaluate", 9, 3), ("serve", 9, 3)])
def test_reptile_deals_minibatches_from_whole_shuffles(phase: str, steps: int, batch: int):
    rows = 10
    algorithm = Reptile(Reptile.Config(0.1, 7, 4, 9, 3), reptile(0.1, 1).model, half_square)
    task = Task("", Batch(torch.zeros(rows, D), torch.zeros(rows)), Batch(torch.zeros(1, D), torch.zeros(1)))
    batches = algorithm.draw(np.random.default_rng(0), task, phase)["batches"]
    assert batches.shape == (steps, batch)
    dealt = batches.flatten()
    for whole in range(len(dealt) // rows):
        assert sorted(dealt[whole * rows : (whole + 1) * rows].tolist()) == list(range(rows))


def test_reptile_takes_the_whole_support_set_where_it_is_smaller_than_a_minibatch():
    task = Task("", Batch(torch.zeros(3, D), torch.zeros(3)), Batch(torch.zeros(1, D), torch.zeros(1)))
    batches = reptile(0.1, 5, batch=10).draw(np.random.default_rng(0), task, "train")["batches"]
    assert all(sorted(one) == [0, 1, 2] for one in batches.tolist())


def test_theta_s_gradient_is_not_zero_where_the_inner_loop_is_differentiated():
    """The fault of many MAML listings: detached tensors, so that nothing is learned."""
    support, query = bowl(np.random.default_rng(5)), bowl(np.random.default_rng(6))
    task = Task("", support.batch(), query.batch())
    gradient, _ = maml(0.1, 5).learn({"model": {"w": vector()}}, task, Context(0, "train", 1, {}))
    assert gradient["model"]["w"].norm() > 0.1
