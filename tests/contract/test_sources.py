"""Every registered source keeps the contract: a task is a pure function of its ticket."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import pytest
import torch

from pipeline.core.seeding import Ticket
from pipeline.core.source import draws_chunks, one_of
from pipeline.core.types import Batch, Pairs, Points, Sets, Simulator, Task
from pipeline.tasks import SOURCES
from pipeline.testing.compare import global_states, seed_globals, tensors
from tests.contract.cases import EXTRAS, SHAPES, kind_of, make_source

pytestmark = [pytest.mark.usefixtures("torch_threads"), pytest.mark.parametrize("name", SOURCES)]

BASE = Ticket(7, "train", "train", 2, 5)
OTHERS = {
    "seed": BASE._replace(seed=8),
    "step": BASE._replace(step=3),
    "number": BASE._replace(number=6),
    "split": BASE._replace(split="test"),
}


@pytest.fixture
def make(name, small_images):
    if name in EXTRAS:
        package, extra = EXTRAS[name]
        pytest.importorskip(package, reason=f"needs the extra {extra}")
    return lambda: make_source(name, small_images)


def bits(task: Task[Batch]) -> list[tuple[torch.Size, torch.dtype, bytes]]:
    return [(one.shape, one.dtype, one.numpy().tobytes()) for one in tensors((task.support, task.query))]


def rows(batch: Batch) -> set[bytes]:
    return {row.numpy().tobytes() for row in batch.x}


def tickets(source) -> list[Ticket]:
    return [
        Ticket(7, purpose, split, step, number)
        for purpose, split, step, number in itertools.product(("train", "evaluate"), source.splits, (1, 2), range(3))
        if (purpose == "train") == (split == "train")
    ]


def test_two_instances_give_the_same_tasks_in_any_order(make):
    one, other = make(), make()
    order = tickets(one)
    forwards = {ticket: bits(one.sample(ticket)) for ticket in order}
    backwards = {ticket: bits(other.sample(ticket)) for ticket in reversed(order)}
    assert forwards == backwards
    assert one.fingerprint == other.fingerprint
    assert one.splits == other.splits


def test_a_task_once_written_to_is_sampled_whole_again(make):
    source = make()
    task = source.sample(BASE)
    before = bits(task)
    for tensor in tensors((task.support, task.query)):
        tensor.zero_()
    assert bits(source.sample(BASE)) == before


def test_a_chunk_drawn_together_has_the_bits_of_its_tasks(make):
    source = make()
    if not draws_chunks(source):
        pytest.skip("draws its tasks one by one")
    chunk = [BASE._replace(number=number) for number in (3, 4, 5, 6)]
    together = source.sample_chunk(chunk)
    for at, ticket in enumerate(chunk):
        alone, sets = source.sample(ticket), (one_of(part, at) for part in (together.support, together.query))
        assert bits(Task("", *sets)) == bits(alone)
        assert (together.ways, 1.0) == (alone.ways, alone.weight)


def test_a_source_that_overrides_how_one_task_is_sampled_is_sampled_one_by_one(make):
    kind = type(make())
    other = type("Other", (kind,), {"sample": lambda self, ticket: kind.sample(self, ticket)})
    assert not draws_chunks(object.__new__(other))


def test_different_tickets_give_different_tasks(make):
    source = make()
    base = bits(source.sample(BASE))
    same = [what for what, ticket in OTHERS.items() if bits(source.sample(ticket)) == base]
    assert not same, f"another {' or '.join(same)} gives the same task"
    assert len({repr(bits(source.sample(ticket))) for ticket in tickets(source)}) == len(tickets(source))


def test_no_global_generator_is_used(make):
    answers = []
    for seed in (1, 2):
        source = make()
        seed_globals(seed)
        before = global_states()
        answers.append(bits(source.sample(BASE)))
        assert global_states() == before
    assert answers[0] == answers[1]


def present(examples):
    """Without padding."""
    return Batch(*(part[examples.mask == 1] for part in examples[:2])) if isinstance(examples, Points) else examples


def test_support_and_query_share_no_example_or_all(make):
    source = make()
    if source.spec().data is Simulator:
        pytest.skip("episodes are acted in, and have no examples")
    for ticket in tickets(source):
        task = source.sample(ticket)
        support, query = present(task.support), present(task.query)
        assert len(rows(support)) == len(support.x)
        shared = rows(support) & rows(query)
        # A function to be made small is the same function when it is judged.
        assert shared == (rows(support) if source.spec().loss == "sum_of_squares" else set())


@pytest.mark.parametrize("purpose", ["train", "evaluate", "serve"])
def test_tasks_have_the_shape_and_the_kind_the_source_says(make, purpose):
    source = make()
    spec, ticket = source.spec(), Ticket(7, purpose, "test", 0, 1)
    shape, task = SHAPES[kind_of(spec)].of(ticket), source.sample(ticket)
    assert task.id == ticket.id
    assert (task.ways, task.weight) == (shape.ways, 1.0)
    for batch, each in ((task.support, shape.shots), (task.query, shape.queries)):
        count = each * shape.ways
        if spec.data is Simulator:
            assert batch.rows == count
            assert all(len(leaf) == count for leaf in batch.episodes.values())
            assert batch.world.start(batch.episodes)[1].shape == (count, *spec.input_shape)
            continue
        if spec.data is Points:  # of which shots and queries are the most
            assert (1 <= len(batch.x) <= count) if purpose == "train" else (len(batch.x) == count)
            assert batch.mask.sum() >= 1
            assert not batch.y[batch.mask == 0].any()
            count = len(batch.x)
        if spec.data is Pairs:
            assert batch.x.dtype == batch.y.dtype == torch.int64
            assert (len(batch.x), len(batch.y)) == (count, count)
            if purpose != "train":  # training may leave long pairs out
                assert (batch.x.shape[1:], batch.y.shape[1]) == (spec.input_shape, spec.tokens.target_length)
            assert batch.x.max() < spec.tokens.sources
            assert batch.y.max() < spec.outputs
            continue
        assert batch.x.shape == (count, *spec.input_shape)
        assert batch.x.is_floating_point()
        assert torch.isfinite(batch.x).all()
        # What comes in sets is asked for at the end, all together.
        assert isinstance(batch, Batch if spec.data is Sets and batch is task.query else spec.data)
        if spec.targets == "slots":
            assert batch.y.dtype == torch.int64
            assert batch.y.bincount(minlength=shape.ways).tolist() == [each] * shape.ways
        elif spec.targets == "labels":
            assert batch.y.dtype == torch.int64
            assert 0 <= batch.y.min() <= batch.y.max() < spec.outputs
        else:
            assert batch.y.is_floating_point()
            assert batch.y.shape == (count, spec.outputs)
            assert torch.isfinite(batch.y).all()


def test_a_task_and_its_ticket_travel(make):
    task = make().sample(BASE)
    assert bits(pickle.loads(pickle.dumps(task))) == bits(task)
    assert pickle.loads(pickle.dumps(BASE)) == BASE


def test_what_a_source_says_of_itself(name, make):
    assert SOURCES[name].Config.__dataclass_params__.frozen
    assert dataclasses.is_dataclass(SOURCES[name].Config)
    assert make().splits
    assert make().fingerprint
