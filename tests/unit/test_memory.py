"""iMAML's memory does not grow with its inner steps, MAML's does, and the count behind that counts."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.utils import _pytree as pytree

from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.learnedoptimizer import LearnedOptimizer
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import init_rng
from pipeline.core.types import Context
from pipeline.engine.living import Living
from tests.bench import memory
from tests.bench.memory import PROBLEMS, held, slope

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


def test_a_view_of_what_was_there_before_is_not_counted():
    before = torch.ones(KB)
    with Living() as living:
        first = before[:2]
        made = first + 1
    assert living.peak == made.nbytes


def test_what_a_graph_keeps_is_counted_inside_transforms_too():
    x = torch.ones(KB, requires_grad=True)
    with Living() as living:
        y = x.exp().sin().sum()
        assert living.now == 4 * KB + 4  # what exp made, which the graph keeps, and the sum
        del y
        assert living.now == 0
        torch.func.vmap(torch.func.grad(lambda row: row.exp().sum()))(x.detach().view(2, -1))
    assert living.peak >= 2 * 4 * KB


@pytest.mark.parametrize(("method", "fewest"), [("imaml", 1), ("newton", 2)])
def test_imaml_needs_the_same_memory_for_any_number_of_inner_steps(method, fewest):
    """A first Newton step starts from theta itself, which was there; later ones from what the one before made."""
    found = [held(method, MLP, steps) for steps in STEPS if steps >= fewest]
    assert len(set(found)) == 1, found


def test_the_memory_of_maml_grows_by_as_much_with_each_inner_step():
    found = [held("unrolled", MLP, steps).after_inner for steps in STEPS]
    each = slope(STEPS, found)
    weights = 4 * (2 * 40 + 40 * 41 + 41)
    assert each > weights, "a step keeps at least the weights it started from"
    for steps, size in zip(STEPS, found, strict=True):
        assert size == pytest.approx(found[0] + each * (steps - 1), rel=0.01)


def test_a_hundred_recomputed_steps_need_at_most_twice_the_memory_of_ten():
    ten, hundred = (held("maml", MLP, steps).peak for steps in (10, 100))
    assert ten == held("unrolled", MLP, 10).peak
    assert hundred < 2 * ten
    assert held("unrolled", MLP, 100).peak > 8 * ten


def test_a_trajectory_needs_the_memory_of_one_segment():
    """Its graph is gone before the next begins; without a cut the graph is that of all steps."""
    task = MLP.task()

    def peak(steps: int, every: int) -> int:
        config = LearnedOptimizer.Config(inner_steps=steps, detach_every=every, cell_size=4)
        algorithm = LearnedOptimizer(config, MLP.model(), LOSSES["mean_squared_error"].function)
        theta, noise = algorithm.init(init_rng(0)), algorithm.draw(init_rng(1), task, "train")
        floats = pytree.tree_map(torch.Tensor.float, (theta, noise))
        with Living() as living:
            algorithm.learn(floats[0], task, Context(1, "train", 1, floats[1]))
        return living.peak

    one, four, whole = peak(5, 5), peak(20, 5), peak(20, 20)
    assert four < 1.3 * one
    assert whole > 2.5 * one


class Hoards(IMAML):
    """The whole path is there before its end is taken."""

    def inner_trajectory(self, theta, support, context):
        return tuple(super().inner_trajectory(theta, support, context))


def test_a_path_that_is_kept_is_found(monkeypatch):
    monkeypatch.setitem(memory.METHODS, "imaml", (Hoards, {}))
    found = [held("imaml", MLP, steps).peak for steps in (1, 64)]
    assert found[1] > found[0]


def test_nothing_is_collected_while_it_counts():
    assert gc.isenabled()
    with Living():
        assert not gc.isenabled()
    with pytest.raises(ZeroDivisionError), Living():
        raise ZeroDivisionError
    assert gc.isenabled()
