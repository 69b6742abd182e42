"""Tasks that are scored piece by piece: the scores of all at once, and the memory of a piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.build import build_components, build_worker
from pipeline.engine import pieces
from pipeline.engine.chunks import chunks_of
from pipeline.engine.interfaces import ScoreReport
from pipeline.engine.living import peak_bytes
from pipeline.engine.pieces import Pieces
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads")

CPU = torch.device("cpu")
TASKS = 16


def test_a_piece_is_a_power_of_two_of_tasks_by_what_one_needs(monkeypatch):
    seen: list[int] = []

    def compute(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return rows * 2

    rows = torch.arange(22.0).reshape(11, 2)  # doubled, a task needs 8 bytes
    for most, expected in ((8, [1] * 11), (40, [4, 4, 3]), (1 << 20, [11])):
        monkeypatch.setitem(pieces.BYTES, "cpu", most)
        some = Pieces(CPU)
        assert torch.equal(some(compute, rows), rows * 2)
        assert seen == [1, *expected]
        assert torch.equal(some(compute, rows[:4]), rows[:4] * 2)
        seen.clear()
    monkeypatch.setitem(pieces.BYTES, "cpu", 1)
    assert torch.equal(Pieces(CPU)(compute, rows[:2]), rows[:2] * 2), "a task that needs more is a piece of its own"


def test_scoring_many_tasks_needs_the_memory_of_a_piece(small_images, monkeypatch):
    recipe = tiny.recipe("reptile", small_images, chunk_size=TASKS, normalisation="one_query")
    components = build_components(recipe)
    theta = components.theta.numpy()

    def score(tasks: int, most: int) -> tuple[int, ScoreReport]:
        monkeypatch.setitem(pieces.BYTES, "cpu", most)
        worker = build_worker(recipe, components)
        (chunk,) = chunks_of(0, 0, tasks, TASKS, purpose="evaluate", split="test")
        told = worker.score(theta, chunk)
        return peak_bytes(lambda: worker.score(theta, chunk)), told

    (one, _), (whole, expected), (few, found) = score(1, 1 << 40), score(TASKS, 1 << 40), score(TASKS, 1)
    assert whole > 10 * one
    assert few < 2 * one
    assert found.points == expected.points
    for name, values in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name], values, rtol=1e-6)
