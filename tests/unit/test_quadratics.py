"""Random quadratics: what a task is made of, and that a linear network's loss on it is ‖W phi - y‖²."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.config import load
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.nets.linear import Linear
from pipeline.nets.model import NormalisedNet
from pipeline.tasks.quadratics import Quadratics

SQUARE = TaskShape(1, 10, 10)
TICKET = Ticket(1, "train", "train", 1, 0)


def source(entries="gaussian", **shape):
    return Quadratics(Quadratics.Config(entries=entries), TaskShapes(SQUARE, TaskShape(**SQUARE.__dict__ | shape)))


@pytest.mark.parametrize(
    ("entries", "mean", "deviation", "least"), [("gaussian", 0.0, 1.0, -9.0), ("uniform", 0.5, 12**-0.5, 0.0)]
)
def test_entries_are_drawn_from_what_is_asked_for(entries, mean, deviation, least):
    tasks = [source(entries).sample(TICKET._replace(number=number)) for number in range(200)]
    for numbers in (torch.stack([task.support.x for task in tasks]), torch.stack([task.support.y for task in tasks])):
        assert numbers.mean().item() == pytest.approx(mean, abs=0.06)
        assert numbers.std().item() == pytest.approx(deviation, abs=0.05)
        assert numbers.min().item() >= least


def test_the_two_kinds_of_entries_have_fingerprints_of_their_own():
    assert source().fingerprint != source("uniform").fingerprint


def test_the_loss_of_a_linear_network_is_the_quadratic():
    task = source().sample(TICKET)
    assert torch.equal(task.query.x, task.support.x)
    model = NormalisedNet(Linear(Linear.Config(), (10,), 1, normalised=False), "none", (10,))
    phi = model.init(np.random.default_rng(0))
    value = LOSSES["sum_of_squares"].function(model.forward_own_statistics(phi, task.support.x)[0], task.support.y).loss
    w, y, point = task.support.x.numpy(), task.support.y.numpy()[:, 0], phi["head/weight"].numpy()[0]
    assert value.item() == pytest.approx(((w @ point - y) ** 2).sum(), rel=1e-12)
    assert 1e-3 < point.std() < 3e-2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"queries": 5}, r"task\.eval\.queries: 5, but a quadratic has 10: .*; set it to 10"),
        ({"ways": 2}, r"task\.eval\.ways: 2, but a quadratic has 1"),
    ],
)
def test_a_shape_that_no_quadratic_has_is_refused(shape, message):
    with pytest.raises(ConfigError, match=message):
        source(**shape)


@pytest.mark.parametrize("key", ["task.eval.rotations", "source.eval_rotations"])
def test_a_quadratic_has_no_rotations(key):
    with pytest.raises(ConfigError, match=f"{key.replace('.', '[.]')}: unknown key"):
        load("quadratics_learned_optimizer", [f"{key}=random"])


@pytest.mark.parametrize(("outputs", "normalised"), [(1, True), (None, False)])
def test_a_linear_network_has_nothing_hidden(outputs, normalised):
    with pytest.raises(ConfigError, match=r"net\.name: linear has no hidden layer to .*use mlp"):
        Linear(Linear.Config(), (10,), outputs, normalised=normalised)
