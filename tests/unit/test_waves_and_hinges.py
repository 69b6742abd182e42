"""Tasks of two families: what each is, that they take turns, and that an adapted architecture tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from pipeline.algorithms import ALGORITHMS
from pipeline.core.failures import ConfigError
from pipeline.core.losses import mean_squared_error
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Context
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.tasks.waves_and_hinges import WavesAndHinges

pytestmark = pytest.mark.usefixtures("torch_threads")


def source(ways=1, **changes):
    shape = TaskShape(ways, 20, 5)
    return WavesAndHinges(WavesAndHinges.Config(**changes), TaskShapes(shape, shape))


def task(number, **changes):
    return source(**changes).sample(Ticket(1, "evaluate", "test", 0, number))


def residual(features, y):
    return float((features @ torch.linalg.lstsq(features, y).solution - y).abs().max())


@pytest.mark.parametrize(("number", "wave"), [(0, True), (1, False), (6, True), (7, False)])
def test_the_families_take_turns_and_are_what_they_are_called(number, wave):
    x, y = task(number).support
    waves, hinges = torch.cat([x.sin(), x.cos()], 1), torch.cat([x.relu(), (-x).relu()], 1)
    assert (residual(waves, y) < 1e-12) == wave
    assert (residual(hinges, y) < 1e-12) != wave
    alone = task(number, functions="waves" if wave else "hinges")
    assert torch.equal(alone.support.y, y)
    assert torch.equal(alone.query.x, task(number).query.x)


def test_inner_steps_move_an_even_architecture_towards_the_op_of_the_family():
    """No outer step is taken: a task alone tells sincos from relu."""
    net = NETS["function_cells"](NETS["function_cells"].Config(cell=None), (1,), 1, normalised=False)
    config = ALGORITHMS["tnas"].Config(inner_lr=0.3, arch_lr=0.3, eval_inner_steps=25)
    algorithm = ALGORITHMS["tnas"](config, NormalisedNet(net, "none", (1,)), mean_squared_error)
    theta = pytree.tree_map(lambda leaf: leaf.double(), algorithm.init(np.random.default_rng(0)))
    chosen = {"sincos": [0, 0], "relu": [0, 0]}
    for number in range(8):
        adapted = algorithm.adapt(theta, task(number).support, Context(0, "evaluate", 1, {}))
        for op in algorithm.cell(adapted):
            if op in chosen:
                chosen[op][number % 2] += 1
    assert chosen["sincos"][0] > 2 * chosen["sincos"][1]
    assert chosen["relu"][1] > 2 * chosen["relu"][0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ways": 2}, "task.train.ways: 2, but a task of this source has no classes"),
        ({"phase": (1.0, 1.0)}, r"source.phase: \(1.0, 1.0\) is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        source(**changes)
