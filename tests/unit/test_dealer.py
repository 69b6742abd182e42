"""The dealer under hundreds of schedules in virtual time: whatever happens to workers, each chunk counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.failures import ClusterError, PoisonError
from pipeline.core.flat import sha256
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape
from pipeline.engine import loop
from pipeline.engine.dealer import MAX_KILLS, Abort, Accept, Crew, Deal, Dealer, Done, Joined, Lost, Replace, deal
from pipeline.engine.evaluate import EvaluationPlan, chunks_of, evaluate
from pipeline.engine.identity import Identity
from pipeline.engine.journal import Journal
from pipeline.engine.keeper import Durability, Keeper
from pipeline.engine.loop import Plan
from pipeline.engine.outer import Outer
from pipeline.engine.protocols import Chunk, Work
from pipeline.engine.publisher import Publisher, Run
from pipeline.engine.serial import SerialExecutor
from pipeline.engine.store import Store
from pipeline.storage.local import Local
from tests.unit.quadratic import Bowls, maml, vector, worker
from tests.unit.virtual import CALM, LOSSES, PATIENCE_S, STRAYS, Chaos, Recorder, VirtualExecutor, VirtualTransport

pytestmark = pytest.mark.usefixtures("torch_threads")

SEEDS = range(60)


def chunks(count: int, step: int = 1) -> list[Chunk]:
    return chunks_of(7, "train", "train", step, 2 * count, 2)


def echo(work: Work, theta: Any, chunk: Chunk) -> Any:
    return work, theta, chunk.number


def crew(workers: int, seed: int, chaos: Chaos = CALM) -> tuple[Crew, VirtualTransport]:
    transport = VirtualTransport(workers, seed, echo, chaos)
    return Crew(transport, transport.clock, workers=workers, patience=PATIENCE_S), transport


@pytest.mark.parametrize("chaos", [LOSSES, STRAYS], ids=["losses", "strays"])
@pytest.mark.parametrize("workers", range(1, 8))
def test_each_chunk_is_accepted_once_whatever_happens(workers, chaos):
    """Workers of random speed that die and are replaced; and some that answer twice, or after they were given up."""
    killed = 0
    for seed in SEEDS:
        ours, transport = crew(workers, seed, chaos)
        for step in range(1, 5):
            wanted = chunks((seed + 3 * step) % 11 + 1, step)
            results = list(ours.learn(step, wanted))
            assert sorted(results) == [("learn", step, chunk.number) for chunk in wanted], f"seed {seed}, step {step}"
        killed += len(transport.killed)
    assert killed > len(SEEDS), "nothing happened"


@pytest.mark.parametrize("workers", [1, 3])
def test_in_calm_each_chunk_is_dealt_once_and_in_order(workers):
    ours, transport = crew(workers, 0)
    list(ours.learn(None, chunks(9)))
    assert [order.chunk.number for order in transport.orders] == list(range(9))
    assert {order.worker for order in transport.orders} == set(range(workers))


def test_rounds_do_not_mix():
    """A consumer that stops early leaves workers busy: their answers do not count for the next round."""
    for seed in SEEDS:
        ours, _ = crew(3, seed, LOSSES)
        first = ours.learn("old", chunks(6))
        next(first)
        first.close()
        assert sorted(ours.learn("new", chunks(6, 2))) == [("learn", "new", number) for number in range(6)]
        assert sorted(ours.score("new", chunks(2, 3))) == [("score", "new", number) for number in range(2)]


def test_a_round_of_a_few_chunks_of_a_step_deals_those():
    ours, transport = crew(2, 0)
    list(ours.learn(None, chunks(6)))
    list(ours.learn(None, [chunks(6)[4], chunks(6)[1]]))
    assert [order.chunk.number for order in transport.orders[6:]] == [4, 1]
    assert transport.orders[-1].round == 2


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_chunk_that_kills_three_workers_ends_the_run_by_name(workers):
    for seed in SEEDS:
        ours, transport = crew(workers, seed, Chaos(deadly=frozenset({2}), kills=99))
        with pytest.raises(PoisonError) as raised:
            list(ours.learn(None, chunks(5)))
        assert transport.killed == {(1, 2): MAX_KILLS}
        message = str(raised.value)
        for expected in ("3 workers", "chunk 2 of step 1", "train/train/1/4", "train/train/1/5", "it was killed"):
            assert expected in message
        assert "\n" not in message


def test_two_kills_are_an_accident():
    for seed in SEEDS:
        ours, transport = crew(2, seed, Chaos(deadly=frozenset({2}), kills=2))
        assert len(list(ours.learn(None, chunks(5)))) == 5
        assert transport.killed == {(1, 2): 2}


def test_kills_are_forgotten_with_the_round():
    ours, _ = crew(2, 0, Chaos(deadly=frozenset({1}), kills=2))
    for step in (1, 2, 3):
        assert len(list(ours.learn(None, chunks(3, step)))) == 3


def test_with_no_worker_at_all_patience_ends():
    ours, transport = crew(3, 0, Chaos(joined=False))
    with pytest.raises(ClusterError, match="no worker was ready for 60 s"):
        list(ours.learn(None, chunks(2)))
    assert PATIENCE_S <= transport.clock.seconds <= PATIENCE_S + 2


def test_when_the_last_worker_is_not_replaced_patience_ends():
    ours, transport = crew(1, 0, Chaos(loss=1.0, replaced=False))
    with pytest.raises(ClusterError, match="no worker was ready"):
        list(ours.learn(None, chunks(2)))
    assert len(transport.orders) == 1
    assert transport.clock.seconds >= PATIENCE_S


def test_waiting_begins_anew_with_each_worker_that_joins():
    dealer = Dealer(patience=10.0)
    dealer.submit(chunks(1))
    assert dealer.tick(100.0) == []
    assert dealer.tick(109.0) == []
    (order,) = dealer.on(Joined(0))
    assert isinstance(order, Deal)
    assert dealer.tick(200.0) == []
    assert [type(action) for action in dealer.on(Lost(0, "gone"))] == [Replace]
    assert dealer.tick(300.0) == []
    assert dealer.tick(309.9) == []
    (abort,) = dealer.tick(310.0)
    assert isinstance(abort, Abort)


def test_a_lost_chunk_is_dealt_before_those_that_wait():
    dealer = Dealer(patience=10.0)
    dealer.submit(chunks(5))
    dealer.on(Joined(0))
    dealer.on(Joined(1))
    dealer.on(Lost(0, "gone"))
    (order,) = [action for action in dealer.on(Done(1, 1, 1, "x")) if isinstance(action, Deal)]
    assert order.chunk.number == 0


def test_a_late_answer_of_a_worker_that_was_given_up_counts_and_its_second_does_not():
    dealer = Dealer(patience=10.0)
    dealer.submit(chunks(1))
    dealer.on(Joined(0))
    dealer.on(Lost(0, "cut off"))
    assert dealer.on(Done(0, 1, 0, "late")) == [Accept(0, "late")]
    assert dealer.finished
    assert Accept(0, "again") not in dealer.on(Done(0, 1, 0, "again"))


def test_a_late_answer_does_not_make_a_busy_worker_idle():
    """Else it is dealt a second chunk, and when it is lost the first one is dealt to nobody, for ever."""
    dealer = Dealer(patience=10.0)
    dealer.submit(chunks(3))
    dealer.on(Joined(0))
    dealer.on(Lost(0, "cut off"))
    (order,) = dealer.on(Joined(0))  # its replacement, under the same number
    assert isinstance(order, Deal)
    dealt = [action for action in dealer.on(Done(0, 0, 0, "from an earlier round")) if isinstance(action, Deal)]
    assert dealt == []


def test_a_chunk_that_was_answered_late_is_not_dealt_again():
    dealer = Dealer(patience=10.0)
    dealer.submit(chunks(2))
    dealer.on(Joined(0))
    dealer.on(Lost(0, "cut off"))
    assert dealer.on(Done(0, 1, 0, "late")) == [Accept(0, "late")]
    (order,) = dealer.on(Joined(0))
    assert isinstance(order, Deal)
    assert order.chunk.number == 1


def test_a_lost_worker_that_was_idle_is_replaced_and_not_dealt_to():
    dealer = Dealer(patience=10.0)
    dealer.on(Joined(0))
    assert dealer.on(Lost(0, "gone")) == [Replace(0)]
    assert dealer.submit(chunks(1)) == []


def test_an_empty_round_is_over_at_once():
    ours, transport = crew(2, 0)
    assert list(deal(ours.dealer, transport, transport.clock, "learn", None, [])) == []


ALGORITHM, SOURCE = maml(0.3, 2), Bowls(weighted=True)
PLAN = Plan(seed=3, steps=6, tasks_per_step=14, chunk_size=2, validation=None, validate_every=0, higher_is_better=False)


def keeper(folder: Path) -> Keeper:
    ours = worker(ALGORITHM, SOURCE, chunk_size=2)
    store = Store(ALGORITHM, ours.layout, vector(), {"model": Outer(lr=0.1, clip=1.0)}, PLAN.steps)
    storage = Local(folder)
    journal = Journal(storage)
    publisher = Publisher(Recorder(), journal, Run("a name", {}, {}), storage, 20)
    durability, identity = Durability(PLAN.steps, PLAN.steps, 1), Identity({}, {})
    return Keeper(store, storage, durability, identity, journal, publisher, "", accept_numerics=False)


class Silent:
    """Nobody looks on."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        assert np.isfinite(loss)

    def note(self, text: str) -> None: ...


def trained(executor: SerialExecutor) -> tuple[str, list[tuple[int, float]]]:
    """The hash of the last theta, and the loss curve."""
    theta = executor.fetch(loop.train(executor, PLAN, Silent()).theta)
    losses = [(entry.step, entry.metrics["train/loss"]) for entry in executor.keeper.journal.entries]
    executor.close("FINISHED", {})
    return sha256(torch.from_numpy(theta)), losses


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[tuple[int, float]]]:
    folder = tmp_path_factory.mktemp("serial")
    return trained(SerialExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), keeper(folder)))


@pytest.mark.parametrize("chaos", [LOSSES, STRAYS], ids=["losses", "strays"])
@pytest.mark.parametrize("workers", range(1, 8))
def test_training_gives_the_same_theta_whatever_the_schedule(serial, workers, chaos, tmp_path):
    executor = VirtualExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), keeper(tmp_path), workers, workers, chaos)
    assert trained(executor) == serial


def test_evaluation_gives_the_same_rows_whatever_the_schedule():
    plan = EvaluationPlan("test", 13, 5, 2, TaskShape(), "bowls")
    ours = worker(ALGORITHM, SOURCE, chunk_size=2)

    def compute(work: Work, theta: Any, chunk: Chunk) -> Any:
        return ours.score(theta, chunk)

    rows = []
    for workers, seed in ((1, 0), (3, 1), (7, 2)):
        transport = VirtualTransport(workers, seed, compute, LOSSES if seed else CALM)
        rows.append(
            evaluate(Crew(transport, transport.clock, workers=workers, patience=PATIENCE_S), vector().numpy(), plan)
        )
    assert rows[0] == rows[1] == rows[2]
    assert [row.point for row in rows[0]] == [0, 1, 2]


def test_tickets_of_a_chunk_say_where_they_belong():
    assert chunks(2)[1] == Chunk(1, 1, (Ticket(7, "train", "train", 1, 2), Ticket(7, "train", "train", 1, 3)))
