"""MbPA: a query's neighbours and their weights, and its local adaptation, against closed forms in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.algorithms.mbpa import MBPA, neighbours
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.types import Batch, Context, Task
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import Mode

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, INPUTS, ROWS = 3, 4, 6
EXACT = {"rtol": 0.0, "atol": 1e-12}
ONE_STEP = MBPA.Config(neighbours=4, local_lr=0.2, local_steps=1, eval_local_steps=1, pull=0.3)


def mbpa(config: MBPA.Config, mode: Mode = "none", loss: str = "cross_entropy") -> MBPA:
    net = MLP(MLP.Config(hidden=(5,), activation="tanh"), (INPUTS,), WAYS, normalised=mode != "none")
    return MBPA(config, NormalisedNet(net, mode, (INPUTS,)), LOSSES[loss].function)


def task(loss: str = "cross_entropy") -> Task[Batch]:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(2, ROWS, INPUTS)))
    y = torch.arange(ROWS) % WAYS if loss == "cross_entropy" else torch.from_numpy(rng.normal(size=(ROWS, WAYS)))
    return Task("", Batch(x[0], y), Batch(x[1], y), WAYS)


def context(phase: str = "train") -> Context:
    return Context(0, phase, WAYS, {})


def theta(algorithm: MBPA):
    params = algorithm.init(np.random.default_rng(0))["model"]
    return {"model": {name: leaf.double() for name, leaf in params.items()}}


def test_neighbours_are_weighted_by_the_inverse_of_their_squared_distance():
    keys = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    rows, weights = neighbours(keys, torch.zeros(2, dtype=torch.float64), 3, epsilon=0.5)
    assert rows.tolist() == [0, 2, 3]
    unscaled = torch.tensor([1 / 0.5, 1 / 1.5, 1 / 4.5], dtype=torch.float64)
    assert_close(weights, unscaled / unscaled.sum(), **EXACT)


def test_more_neighbours_than_the_memory_holds_are_all_of_it():
    rows, weights = neighbours(torch.eye(2), torch.zeros(2), 9, epsilon=1.0)
    assert len(rows) == 2
    assert weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
def test_without_local_steps_the_answer_is_the_parametric_one(loss):
    algorithm = mbpa(replace(ONE_STEP, local_steps=0), loss=loss)
    at, (_, support, query, *_) = theta(algorithm), task(loss)
    answers = algorithm.predict(algorithm.adapt(at, support, context()), query.x)
    assert_close(answers, algorithm.model.forward_own_statistics(at["model"], query.x)[0], **EXACT)


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared_error"])
def test_one_local_step_is_that_of_the_weighted_loss(loss):
    """From where it starts the pull has no slope; -∇ of a linear head is the residuals times the keys."""
    algorithm, (_, support, query, *_) = mbpa(ONE_STEP, loss=loss), task(loss)
    at = theta(algorithm)["model"]
    keys, queries = (algorithm.model.embed(at, x) for x in (support.x, query.x))
    weight, bias = at["head/weight"], at["head/bias"]
    expected = []
    for h in queries:
        rows, share = neighbours(keys, h, ONE_STEP.neighbours, ONE_STEP.epsilon)
        outputs, targets = keys[rows] @ weight.T + bias, support.y[rows]
        if loss == "cross_entropy":
            residual = outputs.softmax(1) - torch.eye(WAYS, dtype=torch.float64)[targets]
        else:
            residual = 2 / WAYS * (outputs - targets)
        pulled = ONE_STEP.local_lr * share.unsqueeze(1) * residual
        expected.append(h @ (weight - pulled.T @ keys[rows]).T + bias - pulled.sum(0))
    found = algorithm.predict(algorithm.adapt({"model": at}, support, context()), query.x)
    assert_close(found, torch.stack(expected), **EXACT)


def test_the_pull_ends_where_the_penalised_least_squares_do():
    """Many small steps on a regression reach argmin Σ w ‖g(h) - v‖² / outputs + pull / 2 ‖theta_x - theta‖²."""
    config = MBPA.Config(neighbours=4, local_lr=0.2, local_steps=80, pull=2.0)
    algorithm, (_, support, query, *_) = mbpa(config, loss="mean_squared_error"), task("mean_squared_error")
    at = theta(algorithm)["model"]
    with torch.no_grad():
        found = algorithm.predict(algorithm.adapt({"model": at}, support, context()), query.x[:1])
    keys, h = algorithm.model.embed(at, support.x), algorithm.model.embed(at, query.x[:1])[0]
    rows, share = neighbours(keys, h, 4, config.epsilon)
    ones = torch.ones(4, 1, dtype=torch.float64)
    inputs, scale = torch.cat([keys[rows], ones], 1), 2 / WAYS * share.diag()
    head = torch.cat([at["head/weight"], at["head/bias"].unsqueeze(1)], 1)
    left = inputs.T @ scale @ inputs + config.pull * torch.eye(6, dtype=torch.float64)
    solved = torch.linalg.solve(left, inputs.T @ scale @ support.y[rows] + config.pull * head.T)
    assert_close(found[0], torch.cat([h, ones[0]]) @ solved, rtol=0.0, atol=1e-9)


def test_a_query_leaves_nothing_behind():
    """The adaptation is thrown away: the same query answers the same, alone or after others."""
    algorithm, (_, support, query, *_) = mbpa(ONE_STEP), task()
    adapted = algorithm.adapt(theta(algorithm), support, context())
    whole = algorithm.predict(adapted, query.x)
    for row, x in enumerate(query.x):
        assert_close(algorithm.predict(adapted, x.unsqueeze(0))[0], whole[row], **EXACT)


def test_the_trace_has_a_row_for_each_local_step():
    algorithm = mbpa(replace(ONE_STEP, eval_local_steps=3))
    trace = algorithm.trace(theta(algorithm), task().support, context("evaluate"))
    assert [episodes.steps for episodes in trace] == [0, 1, 2, 3]


def test_running_statistics_are_refused():
    with pytest.raises(ConfigError, match="running"):
        mbpa(ONE_STEP, "running")
