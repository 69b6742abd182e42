"""The tree and the store: sums that depend on slots alone, and outer steps that a restart does not change."""

from __future__ import annotations

import json
import math
import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms.protonet import ProtoNet
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import InternalError
from pipeline.core.flat import Layout, sha256
from pipeline.core.losses import cross_entropy
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Context, Contribution, MetaParams, Params, Score, Task
from pipeline.engine.chunks import blocks_of, chunks_of
from pipeline.engine.interfaces import Chunk
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.reduce import TreeSum, block_sum, tree_sum
from pipeline.engine.outer.store import Store
from pipeline.engine.worker import Worker
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.nets.running import MOMENTUM
from tests.unit.quadratic import FLOAT64, LOOPED

pytestmark = pytest.mark.usefixtures("torch_threads")


def parts(slots: range | list[int]) -> dict[int, Tensor]:
    """Numbers of many sizes in float32, so that almost any other order of summing shows."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(64, 50)) * 10.0 ** rng.integers(-4, 5, size=(64, 50))
    return {slot: torch.from_numpy(drawn[slot].astype(np.float32)) for slot in slots}


def test_the_sum_does_not_depend_on_the_order_of_arrival():
    ordered = parts(range(37))
    expected = tree_sum(ordered)
    naive = set()
    for seed in range(30):
        slots = random.Random(seed).sample(list(ordered), len(ordered))
        shuffled = {slot: ordered[slot] for slot in slots}
        assert torch.equal(tree_sum(shuffled), expected)
        total = torch.zeros(50)
        for part in shuffled.values():
            total = total + part
        naive.add(sha256(total))
    assert len(naive) == 30, "the parts are too tame: a sum in order of arrival would pass too"
    assert_close(expected.double(), sum(part.double() for part in ordered.values()), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 37, 64])
@pytest.mark.parametrize("block", [1, 2, 4, 16, 64])
def test_aligned_blocks_of_a_power_of_two_may_be_summed_elsewhere(count, block):
    whole = parts(range(count))
    blocks: dict[int, dict[int, Tensor]] = {}
    for slot, part in whole.items():
        blocks.setdefault(slot // block, {})[slot % block] = part
    sums = {number: tree_sum(inside) for number, inside in blocks.items()}
    assert torch.equal(tree_sum(sums), tree_sum(whole))


@pytest.mark.parametrize(
    "holes", [[0], [1], [0, 1], [0, 1, 2, 3], list(range(1, 37)), [*range(5), *range(6, 37)], [5, 6, 36]]
)
def test_holes_are_as_if_they_were_zero(holes):
    whole = parts(range(37))
    left = {slot: part for slot, part in whole.items() if slot not in holes}
    zeroed = {slot: torch.zeros_like(part) if slot in holes else part for slot, part in whole.items()}
    assert torch.equal(tree_sum(left), tree_sum(zeroed))


@pytest.mark.parametrize("seed", range(20))
def test_a_step_cut_into_blocks_gives_the_same_contribution(seed):
    """Chunks without a used task anywhere, blocks of any aligned size, each sum in the slot of its block's first."""
    rng = random.Random(seed)
    ones = [
        Contribution(
            slot, (f"group {slot % 3}",), part.numpy(), rng.choice([0.0, 0.7, 1.3]), [{"slot": np.array(slot)}]
        )
        for slot, part in parts(range(37)).items()
    ]
    chunks = [Chunk(1, slot, ()) for slot in range(37)]
    blocks = blocks_of(chunks, rng.randint(1, 12))
    sums = [block_sum(block.number, (ones[chunk.number] for chunk in block.chunks)) for block in blocks]
    whole, cut = (block_sum(0, all_of) for all_of in (ones, sums))
    assert cut.gradient.tobytes() == whole.gradient.tobytes()
    assert (cut.weight, set(cut.groups), cut.records) == (whole.weight, set(whole.groups), whole.records)
    empty = [one._replace(weight=0.0) for one in ones[4:8]]
    assert block_sum(4, empty)[::3] == (4, 0.0), "a block of nothing weighs nothing"


def test_the_sum_of_a_block_holds_a_vector_for_each_level_at_most():
    total = TreeSum()
    for slot, part in parts(range(64)).items():
        total.add(slot, part)
        assert len(total._partial) <= 7


def test_blocks_are_aligned_and_few_and_the_last_are_small():
    chunks = chunks_of(0, 1, 256, 2, purpose="train", split="train")
    sizes = [len(block.chunks) for block in blocks_of(chunks, 2)]
    assert sizes == [32, 32, 16, 16, 8, 8, 8, 8]
    for count, workers in ((1, 1), (37, 1), (37, 3), (100, 100), (5, 8)):
        blocks = blocks_of(chunks[:count], workers)
        assert [chunk for block in blocks for chunk in block.chunks] == chunks[:count]
        assert all(block.number % len(block.chunks) == 0 for block in blocks)
        assert len(blocks[-1].chunks) <= max(1, count // (4 * workers))


def test_chunks_with_gaps_or_in_another_order_are_blocks_where_they_are_neighbours():
    chunks = chunks_of(0, 1, 16, 1, purpose="train", split="train")
    asked = [*chunks[2:8], chunks[15], chunks[9], chunks[8]]
    assert [[chunk.number for chunk in block.chunks] for block in blocks_of(asked, 1)] == [
        *([2, 3], [4, 5, 6, 7]),
        *([15], [9], [8]),
    ]


def test_the_parts_are_not_written():
    whole = parts(range(9))
    before = {slot: part.clone() for slot, part in whole.items()}
    tree_sum(whole)
    assert all(torch.equal(whole[slot], part) for slot, part in before.items())


class Groups(Algorithm[Batch, MetaParams]):
    """Two groups that are stepped and one that counts the tasks it was shown."""

    Config: ClassVar[Any] = None
    state_groups = frozenset({"seen"})

    def init(self, rng: np.random.Generator) -> MetaParams:
        return {
            "model": {"w": torch.from_numpy(rng.normal(size=3))},
            "rate": {"r": torch.from_numpy(rng.normal(size=2))},
            "seen": {"count": torch.zeros(()), "last": torch.zeros(2)},
        }

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> MetaParams:
        return theta

    def predict(self, adapted: MetaParams, x: Tensor) -> Tensor:
        return x

    def score(self, adapted: MetaParams, query: Batch, context: Context) -> Score:
        return Score(torch.zeros(()), {})

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        return {}, Score(torch.zeros(()), {})

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        if not records:
            return {}
        return {"seen": {"count": theta["seen"]["count"] + len(records), "last": records[-1]["value"]}}


ALGORITHM = Groups(None, None, None)
THETA = ALGORITHM.init(np.random.default_rng(0))
LAYOUT = Layout.of(THETA, torch.float64)
PLAIN = Outer(optimizer="sgd", lr=1.0)


def store(model: Outer = PLAIN, rate: Outer = PLAIN, steps: int = 20) -> Store:
    return Store(ALGORITHM, LAYOUT, LAYOUT.pack(THETA), {"model": model, "rate": rate}, steps)


def contribution(
    chunk: int, model: float = 0.0, rate: float | None = 0.0, weight: float = 1.0, records: list[Any] | None = None
) -> Contribution:
    """A weighted sum with the same number in every coordinate of a group."""
    groups = ("model",) if rate is None else ("model", "rate")
    values = {"model": {"w": torch.full((3,), model)}, "rate": {"r": torch.full((2,), rate or 0.0)}}
    return Contribution(chunk, groups, LAYOUT.pack(values).numpy(), weight, records or [])


def leaf(of: Store, group: str, name: str) -> Tensor:
    return of.layout.unpack(of.theta)[group][name]


def test_the_step_subtracts_a_weighted_mean_and_never_a_sum():
    ours = store()
    ours.step(1, [contribution(0, model=3.0, weight=1.0), contribution(1, model=5.0, weight=3.0)])
    assert_close(leaf(ours, "model", "w"), THETA["model"]["w"] - 8.0 / 4.0, rtol=0, atol=1e-15)


def test_a_chunk_of_which_nothing_was_used_weighs_nothing():
    ours = store()
    ours.step(1, [contribution(0, model=3.0, weight=1.0), Contribution(1, (), np.zeros(LAYOUT.size), 0.0, [])])
    assert_close(leaf(ours, "model", "w"), THETA["model"]["w"] - 3.0, rtol=0, atol=1e-15)


def test_clipping_bounds_the_norm_of_each_group_s_mean_and_reports_it_from_before():
    ours = store(model=Outer(optimizer="sgd", lr=1.0, clip=2.0), rate=Outer(optimizer="sgd", lr=1.0, clip=100.0))
    facts = ours.step(1, [contribution(0, model=8.0, rate=8.0, weight=2.0)])
    moved = THETA["model"]["w"] - leaf(ours, "model", "w")
    assert_close(moved, torch.full((3,), 2.0 / math.sqrt(3), dtype=torch.float64), rtol=1e-12, atol=0)
    assert_close(THETA["rate"]["r"] - leaf(ours, "rate", "r"), torch.full((2,), 4.0, dtype=torch.float64))
    assert facts["grad_norm/model"] == pytest.approx(4.0 * math.sqrt(3))
    assert facts["grad_norm/rate"] == pytest.approx(4.0 * math.sqrt(2))


def test_each_group_has_its_own_optimizer_and_rate():
    ours = store(model=Outer(optimizer="adam", lr=0.25), rate=Outer(optimizer="sgd", lr=0.5))
    facts = ours.step(1, [contribution(0, model=-7.0, rate=3.0)])
    assert_close(leaf(ours, "model", "w"), THETA["model"]["w"] + 0.25, rtol=0, atol=1e-8)
    assert_close(leaf(ours, "rate", "r"), THETA["rate"]["r"] - 1.5, rtol=0, atol=1e-15)
    assert (facts["lr/model"], facts["lr/rate"]) == (0.25, 0.5)


def test_a_group_that_is_left_out_is_not_stepped():
    """Momentum and schedule would move it even under a gradient of zero."""
    pushing = Outer(optimizer="sgd", lr=1.0, momentum=0.9, schedule="linear")
    ours = store(rate=pushing)
    ours.step(1, [contribution(0, model=1.0, rate=1.0)])
    before = leaf(ours, "rate", "r").clone()
    facts = ours.step(2, [contribution(0, model=1.0, rate=None)])
    assert torch.equal(leaf(ours, "rate", "r"), before)
    assert "lr/rate" not in facts
    assert ours.step(3, [contribution(0, model=1.0, rate=1.0)])["lr/rate"] == pytest.approx(1 - 1 / 20)


def test_a_group_that_one_chunk_knows_is_stepped_by_the_mean_over_all():
    ours = store()
    ours.step(1, [contribution(0, rate=None), contribution(1, rate=4.0)])
    assert_close(leaf(ours, "rate", "r"), THETA["rate"]["r"] - 2.0, rtol=0, atol=1e-15)


def test_state_groups_are_folded_once_with_the_records_in_slot_order():
    ours = store()

    def shown(*values: float) -> list[dict[str, np.ndarray]]:
        return [{"value": np.full(2, value)} for value in values]

    ours.step(1, [contribution(1, records=shown(3.0, 4.0)), contribution(0, records=shown(1.0, 2.0))])
    assert leaf(ours, "seen", "count") == 4
    assert leaf(ours, "seen", "last").tolist() == [4.0, 4.0]
    ours.step(1, [contribution(0, records=shown(9.0))])
    assert leaf(ours, "seen", "count") == 4


def test_a_step_is_applied_once_and_in_order():
    ours = store()
    assert ours.step(1, [contribution(0, model=1.0)])
    after = ours.vector()
    assert ours.step(1, [contribution(0, model=1.0)]) == {}
    assert np.array_equal(ours.vector(), after)
    assert ours.version == 1
    with pytest.raises(InternalError, match="step 3 cannot follow step 1"):
        ours.step(3, [contribution(0, model=1.0)])


def test_what_is_handed_out_and_what_comes_in_stays_as_it_is():
    first = LAYOUT.pack(THETA)
    kept = first.clone()
    ours = Store(ALGORITHM, LAYOUT, first, {"model": Outer(optimizer="adam", weight_decay=0.1), "rate": PLAIN}, 5)
    came, sent = contribution(0, model=1.0), ours.vector()
    as_it_came, as_it_was_sent = came.gradient.copy(), sent.copy()
    tensors, _ = ours.state()
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    for step in (1, 2):
        ours.step(step, [came])
    assert np.array_equal(came.gradient, as_it_came)
    assert np.array_equal(sent, as_it_was_sent)
    assert torch.equal(first, kept)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in saved.items())


OPTIMIZERS = [
    Outer(optimizer="adam", lr=0.1),
    Outer(optimizer="adamw", lr=0.1, weight_decay=0.01, beta1=0.5, beta2=0.9),
    Outer(optimizer="sgd", lr=0.1),
    Outer(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    Outer(optimizer="rmsprop", lr=0.1, momentum=0.5),
]
SCHEDULES = [
    {"schedule": "constant"},
    {"schedule": "linear"},
    {"schedule": "cosine"},
    {"schedule": "step", "step_every": 3},
]


def random_contributions(step: int) -> list[Contribution]:
    rng = np.random.default_rng(step)
    return [
        Contribution(chunk, ("model", "rate"), rng.normal(size=LAYOUT.size), 2.0, [{"value": rng.normal(size=2)}])
        for chunk in range(3)
    ]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["schedule"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda outer: f"{outer.optimizer}{outer.momentum or ''}")
@pytest.mark.parametrize("stop", [0, 1, 4, 11])
def test_a_restored_store_goes_on_exactly(optimizer: Outer, schedule: dict[str, Any], stop: int):
    outer = Outer(**{**vars(optimizer), **schedule})
    steps = 12
    straight = store(outer, outer, steps)
    rates = [straight.step(step, random_contributions(step)) for step in range(1, steps + 1)]

    before = store(outer, outer, steps)
    for step in range(1, stop + 1):
        before.step(step, random_contributions(step))
    tensors, texts = before.state()
    after = store(outer, outer, steps)
    after.restore(stop, tensors, json.loads(json.dumps(texts)))
    assert after.version == stop
    assert [after.step(step, random_contributions(step)) for step in range(stop + 1, steps + 1)] == rates[stop:]
    assert sha256(after.theta) == sha256(straight.theta)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 8),
        ({"schedule": "linear"}, [1 - step / 8 for step in range(8)]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ({"schedule": "step", "step_every": 3, "step_factor": 0.1}, [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules_end_where_the_run_ends(schedule: dict[str, Any], expected: list[float]):
    ours = store(Outer(optimizer="sgd", lr=1.0, **schedule), steps=8)
    rates = [ours.step(step, [contribution(0, model=1.0)])["lr/model"] for step in range(1, 9)]
    assert rates == pytest.approx(expected, abs=1e-12)
    if schedule["schedule"] in ("linear", "cosine"):
        assert ours.optimizers["model"].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


class Clusters:
    """Three classes around points of their own."""

    Config: ClassVar[Any] = None
    splits = ("train",)
    fingerprint = "clusters"

    def spec(self) -> Spec:
        return Spec(Batch, (4,), 3, "slots", "cross_entropy")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        rng = ticket.rng("task")
        centres, y = rng.normal(size=(3, 4)), torch.arange(3).repeat(3)
        x = torch.from_numpy(centres[y.numpy()] + rng.normal(size=(9, 4)))
        return Task(ticket.id, Batch(x[:6], y[:6]), Batch(x[6:], y[6:]), 3)


@pytest.mark.parametrize("numerics", [FLOAT64, LOOPED], ids=["vectorised", "looped"])
def test_protonet_s_running_moments_move_towards_the_mean_of_the_tasks_query_moments(numerics):
    net = MLP(MLP.Config(hidden=(5,)), (4,), None, normalised=True)
    algorithm = ProtoNet(ProtoNet.Config(), NormalisedNet(net, "running", (4,)), cross_entropy)
    first = algorithm.init(np.random.default_rng(0))
    layout = Layout.of(first, torch.float64)
    chunks = [Chunk(1, at, tuple(Ticket(0, "train", "train", 1, 2 * at + i) for i in (0, 1))) for at in (0, 1)]
    worker = Worker(algorithm, Clusters(), layout, numerics, 2)
    ours = Store(algorithm, layout, layout.pack(first), {"model": Outer()}, 10)
    ours.step(1, [worker.learn(ours.vector(), chunk)[0] for chunk in reversed(chunks)])

    theta = layout.unpack(layout.pack(first))
    moments = [
        algorithm.model.forward_own_statistics(theta["model"], Clusters().sample(ticket).query.x)[1]
        for chunk in chunks
        for ticket in chunk.tickets
    ]
    for name, old in theta["running"].items():
        expected = (1 - MOMENTUM) * old + MOMENTUM * torch.stack([one[name] for one in moments]).mean(0)
        assert_close(leaf(ours, "running", name), expected, rtol=1e-12, atol=1e-12)


class Vandal(Groups):
    """Writes into the theta it is given, as an inner optimizer that starts on the received tensors would."""

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        theta["model"]["w"].add_(1.0)
        return {"model": {"w": torch.zeros(3)}}, Score(torch.zeros(()), {})

    def score(self, adapted: MetaParams, query: Batch, context: Context) -> Score:
        adapted["model"]["w"].add_(1.0)
        return Score(torch.zeros(()), {"loss": torch.zeros(())})


def test_theta_in_the_hands_of_a_worker_is_never_changed():
    """On a node, all workers read the same pages, and torch would write to them even through a read-only array."""
    vector = LAYOUT.pack(THETA).numpy()
    vector.flags.writeable = False
    before = vector.copy()
    worker = Worker(Vandal(None, None, None), Clusters(), LAYOUT, LOOPED, 2)
    chunk = Chunk(1, 0, (Ticket(0, "train", "train", 1, 0), Ticket(0, "train", "train", 1, 1)))
    worker.learn(vector, chunk)
    worker.score(vector, chunk)
    assert np.array_equal(vector, before)
