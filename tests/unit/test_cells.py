"""Our recurrent cells are torch's, and right to the second derivative (papers' check 23)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

from pipeline.nets.cells import CELLS

INPUTS, HIDDEN, STEPS = 3, 4, 5
THEIRS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}


@pytest.fixture(params=CELLS)
def name(request):
    return request.param


@pytest.fixture
def cell(name):
    return CELLS[name]("cell", INPUTS, HIDDEN)


@pytest.fixture
def params(cell):
    rng = np.random.default_rng(1)
    return {name: leaf + torch.from_numpy(rng.normal(0, 0.3, leaf.shape)) for name, leaf in cell.init(rng).items()}


@pytest.fixture
def xs():
    return torch.randn(STEPS, 2, INPUTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_forward_equals_torch(name, cell, params, xs):
    theirs = THEIRS[name](INPUTS, HIDDEN, dtype=torch.float64)
    second = torch.zeros_like(params["cell/bias"])
    if "cell/reset_bias" in params:
        second[-HIDDEN:] = params["cell/reset_bias"]
    weights = (params["cell/input"], params["cell/recurrent"], params["cell/bias"], second)
    theirs.load_state_dict(
        dict(zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True)), strict=True
    )
    state = cell.start(xs[0])
    hidden = tuple(state.values()) if len(state) > 1 else state["h"]
    for x, mine in zip(xs, cell.read(params, tuple(xs), state), strict=True):
        hidden = theirs(x, hidden)
        for own, other in zip(mine.values(), hidden if isinstance(hidden, tuple) else (hidden,), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-14)


def test_hessian_vector_products_are_finite_differences(cell, params, xs):
    def loss(at):
        return cell.read(at, tuple(xs), cell.start(xs[0]))[-1]["h"].square().sum()

    rng = torch.Generator().manual_seed(3)
    way = {n: torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype) for n, leaf in params.items()}
    product = jvp(grad(loss), (params,), (way,))[1]
    up, down = (grad(loss)({n: leaf + sign * 1e-5 * way[n] for n, leaf in params.items()}) for sign in (1, -1))
    for n in params:
        torch.testing.assert_close(product[n], (up[n] - down[n]) / 2e-5, rtol=1e-6, atol=1e-7)


def test_vectorised_equals_the_loop(cell, params, xs):
    def last(sequence):
        return cell.read(params, tuple(sequence), cell.start(sequence[0]))[-1]["h"]

    together = vmap(last, in_dims=1)(xs)
    torch.testing.assert_close(together, torch.stack([last(xs[:, row]) for row in range(2)]), rtol=0, atol=1e-14)


def test_a_state_is_a_value(cell, params, xs):
    state = cell.start(xs[0])
    cell.read(params, tuple(xs), state)
    assert not any(value.any() for value in state.values())


def test_a_chrono_initialisation_keeps_for_1_to_t_steps(name):
    """Tallec & Ollivier (arXiv 1804.11188, eq. 16): the gate that keeps starts at u / (1 + u), u from U(1, T - 1)."""
    cell = CELLS[name]("cell", INPUTS, 4000)
    params = cell.init(np.random.default_rng(1))
    bias = cell.chrono(np.random.default_rng(2), params, 100)["cell/bias"]
    parts = bias.chunk(cell.gates)
    times = parts[1].exp()
    assert times.min() >= 1
    assert times.max() <= 99
    assert abs(float(times.mean()) - 50) < 2
    assert torch.equal(parts[0], -parts[1] if name == "lstm" else torch.zeros_like(parts[0]))
    assert not any(part.any() for part in parts[2:])
