"""Replay and La-MAML against steps by hand on a linear network, in float64, and the memory against its distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from pipeline.algorithms import ALGORITHMS
from pipeline.core.batches import in_order, reservoir
from pipeline.core.failures import ConfigError
from pipeline.core.losses import mean_squared_error
from pipeline.core.types import Batch, Context, Task
from pipeline.engine.trace import scored_points
from pipeline.families.gradient import BATCHES
from pipeline.nets.linear import Linear
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

ROWS, INPUTS, WEIGHT = 8, 3, "head/weight"


class Made(NamedTuple):
    algorithm: object
    theta: dict
    support: Batch
    context: Context


def made(name, mode="none", **changes):
    kind = ALGORITHMS[name]
    net = Linear(Linear.Config(), (INPUTS,), 1, normalised=False)
    algorithm = kind(kind.Config(**changes), NormalisedNet(net, mode, (INPUTS,)), mean_squared_error)
    rng = np.random.default_rng(5)
    theta = {"model": {WEIGHT: torch.from_numpy(rng.normal(size=(1, INPUTS)))}}
    support = Batch(torch.from_numpy(rng.normal(size=(ROWS, INPUTS))), torch.from_numpy(rng.normal(size=(ROWS, 1))))
    noise = algorithm.draw(np.random.default_rng(7), Task("stream", support, support, 2), "train")
    return Made(algorithm, theta, support, Context(1, "train", 2, noise))


def slope(w, support, rows):
    """The gradient of the mean squared error on these rows."""
    x, y = support.x[rows], support.y[rows]
    return 2 * (x @ w.T - y).T @ x / len(x)


@pytest.mark.parametrize("memory", [0, 3])
def test_replay_takes_steps_on_new_and_replayed_examples_together(memory):
    algorithm, theta, support, drawn = made("replay", inner_lr=0.1, inner_batch=2, memory=memory, replayed=3)
    rows, w = drawn.noise[BATCHES], theta["model"][WEIGHT]
    assert rows.shape == (4, 5 if memory else 2)
    assert torch.equal(rows[:, :2], in_order(ROWS, 2))
    for step in rows:
        w = w - 0.1 * slope(w, support, step)
    found = algorithm.last(theta, support, drawn)[WEIGHT]
    assert (found - w).abs().max() < 1e-15
    assert algorithm.learn(theta, Task("stream", support, support, 2), drawn)[0] == {}
    assert list(scored_points(algorithm.trace(theta, support, drawn), algorithm.milestones(drawn))) == [0, 2, 4]


def test_a_memory_holds_earlier_examples_alone_each_as_likely():
    """One in ``size`` of the rows so far, whatever their age; the first step has only its own."""
    size, replayed, count, held = 2, 4, 1000, np.zeros(6)
    for seed in range(count):
        drawn = reservoir(np.random.default_rng(seed), in_order(8, 2), size, replayed)
        assert set(drawn[0].tolist()) <= {0, 1}
        assert all(int(drawn[j].max()) < 2 * j for j in (1, 2, 3))
        assert all(len(set(one.tolist())) <= size for one in drawn)
        held += np.bincount(drawn[3].numpy(), minlength=6) / replayed
    assert np.abs(held / count - 1 / 6).max() < 0.03


def within(gradient, clip):
    return gradient * min(1.0, clip / (float(gradient.norm()) + 1e-6))


def look_ahead(case, wrong=None, clip=1e6):
    """La-MAML's weights by its equations, or with something wrong in them."""
    _, theta, support, drawn = case
    w, alpha = theta["model"][WEIGHT], torch.full((1, INPUTS), 0.3, dtype=torch.float64)
    for rows in drawn.noise[BATCHES]:
        fast, taken = w, torch.zeros_like(w)
        for new in rows[:2]:
            step = slope(w if wrong == "one point" else fast, support, new[None])
            step = step.clamp(-clip, clip)
            fast, taken = fast - alpha * step, taken + step
        end = slope(fast, support, rows[:2] if wrong == "no memory" else rows)
        learned = alpha + (1 if wrong == "sign" else -1) * 0.2 * within(-taken * end, clip)
        rate = alpha if wrong == "old rates" else learned
        w = w - (rate if wrong == "negative rates" else rate.clamp(min=0)) * within(end, clip)
        alpha = learned
    return w


LOOK = {"inner_lr": 0.3, "rate_lr": 0.2, "inner_batch": 2, "memory": 4, "replayed": 3}


@pytest.mark.parametrize("clip", [1e6, 0.5])
def test_la_maml_follows_its_equations(clip):
    case = made("lamaml", **LOOK, clip=clip)
    found = case.algorithm.last(case.theta, case.support, case.context)[WEIGHT]
    assert (found - look_ahead(case, clip=clip)).abs().max() < 1e-14


@pytest.mark.parametrize("wrong", ["one point", "no memory", "sign", "old rates", "negative rates"])
def test_la_maml_is_not_what_it_is_often_mistaken_for(wrong):
    case = made("lamaml", **LOOK, clip=1e6)
    found = case.algorithm.last(case.theta, case.support, case.context)[WEIGHT]
    assert (found - look_ahead(case, wrong)).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["replay", "lamaml"])
def test_a_normalisation_that_looks_at_a_batch_is_refused(name):
    """The first batch repeats one example: less its mean it is rounding, whose sign decides what ReLU lets through."""
    with pytest.raises(ConfigError, match="normalisation: 'transductive' looks at a batch, and .* learns a stream"):
        made(name, mode="transductive")
