"""iMAML's memory does not grow with its inner steps, MAML's does, and the count behind that counts."""

from __future__ import annotations

import pytest
import torch

from pipeline.algorithms.imaml import IMAML
from tests.bench import memory
from tests.bench.memory import PROBLEMS, Living, held, slope

pytestmark = pytest.mark.usefixtures("torch_threads")

MLP, STEPS = next(iter(PROBLEMS.values())), (1, 2, 4, 8, 16)
KB = 1024


def test_what_lives_is_counted_once_and_until_it_is_gone():
    with Living() as living:
        first = torch.ones(KB, dtype=torch.uint8)
        view = first.view(2, -1)
        assert (living.now, living.peak) == (KB, KB)
        second = torch.cat([first, first])
        assert living.now == 3 * KB
        del first, second
        assert (living.now, living.peak) == (KB, 3 * KB)
        del view
        assert (living.now, living.peak) == (0, 3 * KB)


def test_what_a_graph_keeps_is_counted_inside_transforms_too():
    x = torch.ones(KB, requires_grad=True)
    with Living() as living:
        y = x.exp().sin().sum()
        assert living.now == 4 * KB + 4  # what exp made, which the graph keeps, and the sum
        del y
        assert living.now == 0
        torch.func.vmap(torch.func.grad(lambda row: row.exp().sum()))(x.detach().view(2, -1))
    assert living.peak >= 2 * 4 * KB


def test_imaml_needs_the_same_memory_for_any_number_of_inner_steps():
    found = [held("imaml", MLP, steps) for steps in STEPS]
    assert len(set(found)) == 1, found


def test_the_memory_of_maml_grows_by_as_much_with_each_inner_step():
    found = [held("maml", MLP, steps).after_inner for steps in STEPS]
    each = slope(STEPS, found)
    weights = 4 * (2 * 40 + 40 * 41 + 41)
    assert each > weights, "a step keeps at least the weights it started from"
    for steps, size in zip(STEPS, found, strict=True):
        assert size == pytest.approx(found[0] + each * (steps - 1), rel=0.01)


class Hoards(IMAML):
    """The whole path is there before its end is taken."""

    def path(self, theta, support, context):
        return tuple(super().path(theta, support, context))


def test_a_path_that_is_kept_is_found(monkeypatch):
    monkeypatch.setitem(memory.METHODS, "imaml", Hoards)
    found = [held("imaml", MLP, steps).peak for steps in (1, 64)]
    assert found[1] > found[0]
