"""MAML (arXiv 1703.03400, eq. 1) over a recurrent cell, in float64. The cell itself is in ``test_cells``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.testing import assert_close

from pipeline.algorithms.recurrentmaml import RecurrentMAML
from pipeline.core.losses import cross_entropy, mean_squared_error
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.nets.cells import CELLS
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

INPUTS, SHOTS, QUERIES = 3, 6, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}


def recurrent(cell: str = "lstm", outputs: int = 1, kind: type[RecurrentMAML] = RecurrentMAML) -> RecurrentMAML:
    net = MLP(MLP.Config(hidden=(7, 4), activation="tanh"), (INPUTS,), outputs, normalised=False)
    loss = mean_squared_error if outputs == 1 else cross_entropy
    return kind(RecurrentMAML.Config(cell, inner_lr=0.1, inner_steps=2), NormalisedNet(net, "none", (INPUTS,)), loss)


def first(algorithm: RecurrentMAML) -> MetaParams:
    theta = algorithm.init(np.random.default_rng(0))
    return {group: {name: leaf.double() for name, leaf in leaves.items()} for group, leaves in theta.items()}


def task(seed: int = 0, outputs: int = 1) -> Task[Batch]:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(SHOTS + QUERIES, INPUTS)))
    y = torch.from_numpy(rng.normal(size=(len(x), 1)) if outputs == 1 else rng.integers(outputs, size=len(x)))
    return Task("", Batch(x[:SHOTS], y[:SHOTS]), Batch(x[SHOTS:], y[SHOTS:]), outputs)


def context(algorithm: RecurrentMAML, few: Task[Batch], seed: int = 0) -> Context:
    return Context(0, "train", few.ways, algorithm.draw(np.random.default_rng(seed), few, "train"))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_second_derivatives_through_the_reading_are_finite_differences(cell, outputs):
    """Of the loss after adaptation: its gradient has the inner steps' second derivatives, this the third."""
    algorithm, few = recurrent(cell, outputs), task(outputs=outputs)
    told = context(algorithm, few)

    def loss(model: Params) -> Tensor:
        return algorithm.objective({"model": model}, few, told).loss

    params = first(algorithm)["model"]
    rng = torch.Generator().manual_seed(3)
    way = {name: torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype) for name, leaf in params.items()}

    def slope(at: Params) -> Tensor:
        gradient = grad(loss)(at)
        return torch.stack([(gradient[name] * way[name]).sum() for name in way]).sum()

    product = grad(slope)(params)
    up, down = (grad(loss)({name: leaf + sign * 1e-5 * way[name] for name, leaf in params.items()}) for sign in (1, -1))
    assert product.keys() == params.keys()
    for name, leaf in product.items():
        assert_close(leaf, (up[name] - down[name]) / 2e-5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_support_set_is_read_with_its_labels_and_queries_are_asked_without(cell, outputs):
    """The model by hand, before adaptation."""
    algorithm, few = recurrent(cell, outputs), task(outputs=outputs)
    theta, told = first(algorithm), context(algorithm, few)
    phi, body, read = theta["model"], algorithm.body, CELLS[cell]("cell", 4 + outputs, 4)
    y = few.support.y
    labels = y if outputs == 1 else torch.nn.functional.one_hot(y, outputs).double()
    seen = torch.cat([body.embed(phi, few.support.x), labels], 1)[told.noise["order"]]
    state = read.read(phi, tuple(seen), read.start(seen[0]))[-1]
    asked = torch.cat([body.embed(phi, few.query.x), torch.zeros(QUERIES, outputs, dtype=torch.float64)], 1)
    h = read(phi, asked, {name: value.expand(QUERIES, -1) for name, value in state.items()})["h"]
    before, *_ = algorithm.trace(theta, few.support, told)
    by_hand = h @ phi["head/weight"].T + phi["head/bias"]
    assert_close(algorithm.predict(before, few.query.x), by_hand, **EXACT)


def test_adaptation_starts_from_the_state_and_leaves_it_there():
    algorithm, few = recurrent(), task()
    theta, told = first(algorithm), context(algorithm, few)
    start, *later = (adapted.phi for adapted in algorithm.trace(theta, few.support, told))

    def loss(weights: Params) -> Tensor:
        state = {name: leaf for name, leaf in start.items() if name.startswith("state/")}
        return mean_squared_error(
            algorithm.model.forward_own_statistics(weights | state, few.support.x)[0], few.support.y
        ).loss

    gradient = grad(loss)(theta["model"])
    for name, leaf in theta["model"].items():
        assert_close(later[0][name], leaf - 0.1 * gradient[name], **EXACT)
    for phi in later:
        assert all(torch.equal(phi[name], start[name]) for name in ("state/h", "state/c"))


def test_another_order_leaves_another_state():
    algorithm, few = recurrent(), task()
    theta, orders = first(algorithm), [context(algorithm, few, seed) for seed in (1, 2)]
    one, other = (algorithm.adapt(theta, few.support, told).phi["state/h"] for told in orders)
    assert (one - other).abs().max() > 1e-6


class CarriesItsState(RecurrentMAML):
    """The fault: a task is read from where the last one ended, as if the state were knowledge of all tasks."""

    def adapt(self, theta, support, context):
        cell = self.net.cell
        adapted = super().adapt(theta, support, context)
        state = {name.removeprefix("state/"): leaf for name, leaf in adapted.phi.items() if name.startswith("state/")}
        cell.start = lambda like: state
        return adapted


@pytest.mark.parametrize(("kind", "leaks"), [(RecurrentMAML, False), (CarriesItsState, True)])
def test_no_gradient_crosses_from_one_task_to_the_next(kind, leaks):
    algorithm = recurrent(kind=kind)
    theta, (before, now) = first(algorithm), (task(1), task(2))
    alone = recurrent().objective(theta, now, context(algorithm, now)).loss
    x = before.support.x.clone().requires_grad_()
    algorithm.adapt(theta, before.support._replace(x=x), context(algorithm, before))
    loss = algorithm.objective(theta, now, context(algorithm, now)).loss
    assert (not torch.equal(loss, alone)) == leaks
    (crossed,) = torch.autograd.grad(loss + 0 * x.sum(), x)
    assert bool(crossed.any()) == leaks
