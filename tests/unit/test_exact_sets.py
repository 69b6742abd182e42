"""Support sets that come one after the other: what a learner of each family makes of them, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.batches import rows_of_sets
from pipeline.core.failures import ConfigError
from pipeline.core.losses import cross_entropy
from pipeline.core.seeding import Ticket
from pipeline.core.types import Batch, Context, MetaParams, Params, Sets, Task
from pipeline.engine.trace import scored_points
from pipeline.families.gradient import BATCHES
from pipeline.families.memory import MemoryBased
from pipeline.families.metric import class_means
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from tests.contract.cases import small

pytestmark = pytest.mark.usefixtures("torch_threads")

SETS, EACH, INPUTS, RATE = 3, 4, 5, 0.7
WAYS = 2 * SETS
EXACT = {"rtol": 0.0, "atol": 1e-12}
READERS = [name for name, kind in ALGORITHMS.items() if issubclass(kind, MemoryBased)]


class Made(NamedTuple):
    algorithm: Algorithm[Any, Any]
    theta: MetaParams
    task: Task[Any]
    context: Context

    def adapted(self, support: Any) -> Any:
        """What the algorithm makes of another support set, with random tensors of the ticket that are drawn for it."""
        task = self.task._replace(support=support)
        noise = self.algorithm.draw(np.random.default_rng(3), task, self.context.phase)
        return self.algorithm.adapt(self.theta, support, self.context._replace(noise=noise))

    def trace(self) -> list[Any]:
        return list(self.algorithm.trace(self.theta, self.task.support, self.context))


def sets_of(numbers: Sequence[int], rows: Sequence[int] | None = None) -> Sets:
    """These of the three sets, with two classes each, one after the other; ``rows`` gives their rows another order."""
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.normal(size=(SETS, EACH, INPUTS)))[list(numbers)].flatten(0, 1)
    y = torch.arange(WAYS).reshape(SETS, 2).repeat(1, EACH // 2)[list(numbers)].flatten()
    order = torch.arange(len(y)) if rows is None else torch.tensor(rows)
    return Sets(x[order], y[order], torch.arange(len(numbers)).repeat_interleave(EACH)[order])


def made(name: str, mode: Any = "none", phase: Any = "train", **settings: Any) -> Made:
    kind = ALGORITHMS[name]
    outputs = WAYS if kind.needs.head else None
    net = MLP(MLP.Config(hidden=(6,), activation="tanh"), (INPUTS,), outputs, normalised=mode != "none")
    algorithm = kind(small(kind.Config, **settings), NormalisedNet(net, mode, (INPUTS,)), cross_entropy)  # type: ignore[call-arg]
    rng = np.random.default_rng(1)
    theta = {
        group: {key: leaf.double() + torch.from_numpy(rng.normal(0, 0.3, leaf.shape)) for key, leaf in leaves.items()}
        for group, leaves in algorithm.init(rng).items()
    }
    query = Batch(torch.from_numpy(rng.normal(size=(2 * WAYS, INPUTS))), torch.arange(2 * WAYS) % WAYS)
    task = Task("", sets_of(range(SETS)), query, WAYS)
    noise = algorithm.draw(np.random.default_rng(3), task, phase)
    return Made(algorithm, theta, task, Context(0, phase, WAYS, noise))


def maml(phase: Any = "train", **settings: Any) -> Made:
    return made("maml", phase=phase, **{"inner_lr": RATE, "inner_steps": 2, "eval_inner_steps": 2, **settings})


def steps_on(case: Made, phi: Params, seen: Any, steps: int = 2) -> Params:
    """Adaptation by hand on one support set."""

    def loss(at: Params) -> Tensor:
        return torch.nn.functional.cross_entropy(case.algorithm.model.outputs(at, seen), seen.y)

    for _ in range(steps):
        slope = torch.func.grad(loss)(phi)
        phi = {name: leaf - RATE * slope[name] for name, leaf in phi.items()}
    return phi


def one_after_the_other(case: Made, numbers: Sequence[int]) -> Params:
    phi = case.theta["model"]
    for number in numbers:
        phi = steps_on(case, phi, sets_of([number]))
    return phi


def largest(a: Params, b: Params) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_rows_of_a_set_are_found_wherever_they_stand():
    rows = rows_of_sets(sets_of([0, 1], rows=[4, 0, 5, 1, 2, 6, 7, 3]))
    assert rows.tolist() == [[1, 3, 4, 7], [0, 2, 5, 6]]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (0, 1, 2)])
def test_maml_over_sets_is_one_adaptation_after_the_other(numbers):
    case = maml()
    phi = case.adapted(sets_of(numbers)).phi
    assert largest(phi, one_after_the_other(case, numbers)) < 1e-14
    assert largest(phi, one_after_the_other(case, numbers[::-1])) > 1e-2


def test_maml_sees_no_earlier_set_again():
    """Planted: the steps on the second set see the first again."""
    case = maml()
    right = one_after_the_other(case, [0, 1])
    together = sets_of([0, 1])
    wrong = steps_on(case, steps_on(case, case.theta["model"], sets_of([0])), together)
    rows = torch.stack([torch.arange(EACH).repeat(2)] * 2 + [torch.arange(2 * EACH)] * 2)
    planted = case.context._replace(noise={BATCHES: rows})
    assert largest(case.algorithm.adapt(case.theta, together, planted).phi, wrong) < 1e-14
    assert largest(case.adapted(together).phi, right) < 1e-14 < 1e-2 < largest(wrong, right)


def test_maml_s_meta_gradient_goes_through_all_sets():
    case = maml()

    def query_loss(model: Params) -> Tensor:
        phi = one_after_the_other(case._replace(theta={"model": model}), range(SETS))
        return torch.nn.functional.cross_entropy(case.algorithm.model.outputs(phi, case.task.query), case.task.query.y)

    gradient, score = case.algorithm.learn(case.theta, case.task, case.context)
    assert_close(score.loss, query_loss(case.theta["model"]), **EXACT)
    assert largest(gradient["model"], torch.func.grad(query_loss)(case.theta["model"])) < 1e-13


def test_maml_is_scored_at_the_end_of_each_set():
    case = maml("evaluate", eval_inner_steps=2)
    milestones = tuple(case.algorithm.milestones(case.context))
    assert milestones == (2, 4, 6)
    points = scored_points(case.trace(), milestones)
    for sets, point in enumerate((0, *milestones)):
        assert largest(points[point].phi, one_after_the_other(case, range(sets))) < 1e-14


def test_mini_batches_of_an_evaluation_mix_the_sets():
    """What MAML reaches from the same theta where all sets come at once."""
    everything = sets_of(range(SETS))
    case = maml("evaluate", eval_inner_batch=len(everything.y))
    wanted = steps_on(case, case.theta["model"], everything)
    assert case.algorithm.milestones(case.context) == ()
    assert largest(case.adapted(everything).phi, wanted) < 1e-14
    assert len(maml(eval_inner_batch=2).context.noise[BATCHES]) == 2 * SETS, "training is on sets"


def test_a_support_set_that_comes_at_once_is_learned_as_before():
    case = maml("evaluate")
    at_once = Batch(*sets_of([0])[:2])
    assert case.algorithm.draw(np.random.default_rng(3), case.task._replace(support=at_once), "evaluate") == {}
    assert case.algorithm.milestones(case.context._replace(noise={})) == ()
    assert largest(case.adapted(at_once).phi, steps_on(case, case.theta["model"], at_once)) < 1e-14


@pytest.mark.parametrize("numbers", [(0, 1, 2), (2, 0, 1)])
def test_protonet_over_sets_is_protonet_over_their_union(numbers):
    case, support = made("protonet"), sets_of(numbers)
    union = Batch(*sets_of(range(SETS))[:2])
    over_sets, over_union = case.adapted(support), case.adapted(union)
    assert_close(over_sets.means, over_union.means, **EXACT)
    # By hand: sums and counts that are updated with each set.
    sums, counts = torch.zeros(WAYS, 6, dtype=torch.float64), torch.zeros(WAYS, 1, dtype=torch.float64)
    for number in numbers:
        x, y, _ = sets_of([number])
        z = case.algorithm.model.forward_own_statistics(case.theta["model"], x)[0]
        sums, counts = sums.index_add(0, y, z), counts.index_add(0, y, torch.ones_like(z[:, :1]))
    assert_close(over_sets.means, sums / counts, **EXACT)


def test_a_running_mean_goes_on_where_a_class_comes_again():
    z, y = torch.tensor([[2.0], [4.0], [6.0]]).double(), torch.tensor([0, 1, 0])
    assert class_means(z, y, 2).tolist() == [[4.0], [4.0]]


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_one_set_after_the_other(name):
    """As it reads one support set in that order; what it knew of a set does not depend on later ones."""
    case = made(name, phase="evaluate")
    order = case.context.noise["order"]
    assert [sorted(rows) for rows in order.tolist()] == rows_of_sets(case.task.support).tolist()
    assert order.tolist() != rows_of_sets(case.task.support).tolist(), "each set is read in random order"
    trace = case.trace()
    assert len(trace) == SETS + 1
    assert tuple(case.algorithm.milestones(case.context)) == (1, 2, 3)
    at_once = Batch(*case.task.support[:2])
    for sets, known in enumerate(trace[1:], 1):
        context = case.context._replace(noise={"order": order[:sets].flatten()})
        wanted = case.algorithm.adapt(case.theta, at_once, context)
        asked = case.task.query.x
        assert_close(case.algorithm.predict(known, asked), case.algorithm.predict(wanted, asked), **EXACT)
        assert torch.equal(known.labels, at_once.y[order[:sets].flatten()])
    swapped = case.algorithm.adapt(case.theta, at_once, context._replace(noise={"order": order.flip(0).flatten()}))
    assert (case.algorithm.predict(trace[-1], asked) - case.algorithm.predict(swapped, asked)).abs().max() > 1e-6


@pytest.mark.parametrize("name", READERS)
def test_a_reader_s_trace_of_a_support_set_at_once_is_its_end(name):
    case = made(name)
    at_once = case.task._replace(support=Batch(*case.task.support[:2]))
    noise = case.algorithm.draw(Ticket(1, "train", "train", 0, 0).rng("noise"), at_once, "train")
    context = case.context._replace(noise=noise)
    assert len(tuple(case.algorithm.trace(case.theta, at_once.support, context))) == 1
    assert case.algorithm.milestones(context) == ()


@pytest.mark.parametrize(
    ("name", "mode", "fitting"),
    [
        *(("maml", mode, "transductive") for mode in ("support", "one_query")),
        *(("protonet", mode, "running") for mode in ("transductive", "support", "one_query")),
    ],
)
def test_a_normalisation_by_all_sets_at_once_is_refused(name, mode, fitting):
    with pytest.raises(ConfigError) as caught:
        made(name, mode)
    assert str(caught.value) == (
        f"normalisation: {mode!r} looks at all support sets at once, and they come one after the other; use {fitting}, "
        "none, layer or group"
    )
