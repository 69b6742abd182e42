"""MAML and Reptile come to rest at different points on quadratics, each where its formula says.

With P = (I - alpha H)^k for each task: MAML (Finn et al. 2017, arXiv 1703.03400, eq. 1) at (Σ PᵀHP)⁻¹ Σ PᵀHP c, Reptile
(Nichol et al. 2018, arXiv 1803.02999, algorithm 1) at (Σ (I - P))⁻¹ Σ (I - P) c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.core.algorithm import Algorithm
from pipeline.engine.interfaces import Chunk
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from tests.unit.quadratic import Bowls, maml, mean_gradient, reptile, tickets, vector, worker

pytestmark = pytest.mark.usefixtures("torch_threads")

RATE = 0.4
TASKS = tickets(5)
SOURCE = Bowls(same=True)
BOWLS = [SOURCE.pair(ticket)[0] for ticket in TASKS]

any_steps = pytest.mark.parametrize("steps", [1, 3])


def maml_optimum(steps: int) -> Tensor:
    """(Σ PᵢᵀHᵢPᵢ)⁻¹ Σ PᵢᵀHᵢPᵢcᵢ."""
    weights = [one.contraction(RATE, steps).T @ one.H @ one.contraction(RATE, steps) for one in BOWLS]
    pulls = [weight @ one.c for weight, one in zip(weights, BOWLS, strict=True)]
    return torch.linalg.solve(torch.stack(weights).sum(0), torch.stack(pulls).sum(0))


def reptile_fixed_point(steps: int) -> Tensor:
    """(Σ(I - Pᵢ))⁻¹ Σ(I - Pᵢ)cᵢ."""
    weights = [torch.eye(len(one.c), dtype=torch.float64) - one.contraction(RATE, steps) for one in BOWLS]
    pulls = [weight @ one.c for weight, one in zip(weights, BOWLS, strict=True)]
    return torch.linalg.solve(torch.stack(weights).sum(0), torch.stack(pulls).sum(0))


@any_steps
def test_each_rests_at_its_own_point_and_not_at_the_other_s(steps):
    for algorithm, own, other in (
        (maml(RATE, steps), maml_optimum(steps), reptile_fixed_point(steps)),
        (reptile(RATE, steps), reptile_fixed_point(steps), maml_optimum(steps)),
    ):
        assert mean_gradient(algorithm, SOURCE, own, TASKS).abs().max() < 1e-13
        assert mean_gradient(algorithm, SOURCE, other, TASKS).norm() > 1e-3


@pytest.mark.parametrize(
    ("build", "point", "steps", "rate"),
    [(maml, maml_optimum, 1, 3.0), (reptile, reptile_fixed_point, 3, 1.0)],
)
def test_training_arrives_there(
    build: Callable[[float, int], Algorithm[Any, Any]], point: Callable[[int], Tensor], steps: int, rate: float
):
    algorithm = build(RATE, steps)
    ours = worker(algorithm, SOURCE, chunk_size=8)
    store = Store(algorithm, ours.layout, vector(), {"model": Outer(optimizer="sgd", lr=rate)}, 100)
    for step in range(1, 101):
        contribution, _ = ours.learn(store.vector(), Chunk(step, 0, TASKS))
        store.step(step, [contribution])
    assert_close(torch.from_numpy(store.vector()), point(steps), rtol=0, atol=1e-9)
