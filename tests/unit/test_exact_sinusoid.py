"""On [sin x, cos x] a sine wave is linear, so that the inner loop of MAML (arXiv 1703.03400, eq. 1) is a quadratic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms.maml import MAML
from pipeline.core.losses import mean_squared_error
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Batch, Context, Params, Task
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser
from pipeline.tasks.sinusoid import Sinusoid

pytestmark = pytest.mark.usefixtures("torch_threads")

RATE = 0.3
CONTEXT = Context(0, "train", 1, {})


class Wave(Net):
    """a sin x + b cos x."""

    def __init__(self, config: Any, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool) -> None:
        self.outputs = outputs

    def init(self, rng: np.random.Generator) -> Params:
        return {"head": torch.from_numpy(rng.normal(size=2))}

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        return features(x)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        return features @ params["head"].unsqueeze(1)


def features(x: Tensor) -> Tensor:
    return torch.cat([x.sin(), x.cos()], 1)


def wave_maml(steps: int) -> MAML:
    return MAML(
        MAML.Config(RATE, steps, steps),
        NormalisedNet(Wave(None, (1,), 1, normalised=False), "none", (1,)),
        mean_squared_error,
    )


@pytest.fixture
def tasks() -> list[Task[Batch]]:
    source = Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(shots=2, queries=30), TaskShape(shots=2, queries=30)))
    return [source.sample(Ticket(1, "train", "train", 0, number)) for number in range(20)]


def least_squares(task: Task[Batch]) -> Tensor:
    return torch.linalg.solve(features(task.support.x), task.support.y)[:, 0]


def test_two_points_leave_no_error(tasks):
    algorithm = wave_maml(1)
    for task in tasks:
        exact = algorithm.model.adapted({"head": least_squares(task)}, task.support.x)
        assert algorithm.score(exact, task.query, CONTEXT).loss < 1e-18


@pytest.mark.parametrize("steps", [1, 3])
def test_the_inner_loop_and_the_gradient_of_maml_have_the_closed_form_of_a_quadratic(tasks, steps):
    algorithm = wave_maml(steps)
    theta = algorithm.init(np.random.default_rng(0))["model"]["head"]
    for task in tasks:
        # The loss is a *mean* over examples, hence 2/N: the rate of a published sum is N times smaller.
        support, query = features(task.support.x), features(task.query.x)
        curvature, query_curvature = 2 / len(support) * support.T @ support, 2 / len(query) * query.T @ query
        contraction = torch.linalg.matrix_power(torch.eye(2, dtype=torch.float64) - RATE * curvature, steps)
        c = least_squares(task)
        end = c + contraction @ (theta - c)

        assert_close(
            algorithm.adapt({"model": {"head": theta}}, task.support, CONTEXT).phi["head"], end, rtol=0, atol=1e-11
        )
        gradient, _ = algorithm.learn({"model": {"head": theta}}, task, CONTEXT)
        assert_close(gradient["model"]["head"], contraction.T @ query_curvature @ (end - c), rtol=0, atol=1e-11)
