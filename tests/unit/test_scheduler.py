"""The scheduler under hundreds of schedules in virtual time: whatever happens to workers, each chunk counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.failures import ClusterError, CorruptionError, PoisonError
from pipeline.core.flat import sha256
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape
from pipeline.engine import loop
from pipeline.engine.chunks import chunks_of
from pipeline.engine.durability.coordinator import Coordinator, Durability
from pipeline.engine.durability.identity import Identity
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import Publisher, TrackedRun
from pipeline.engine.evaluate import EvaluationPlan, evaluate
from pipeline.engine.interfaces import Block, Chunk, Report, Work
from pipeline.engine.loop import Plan
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from pipeline.engine.scheduling.events import Abort, Accept, Assign, Done, Joined, Leaving, Lost, Note, Replace
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.quarantine import Quarantine
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.submission import MAX_LOSSES
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.serial import SerialExecutor
from pipeline.storage.local import Local
from tests.unit.quadratic import Bowls, maml, vector, worker
from tests.unit.virtual import (
    CALM,
    EVERYTHING,
    HANGS,
    LIMITS,
    LOSSES,
    STRAYS,
    Chaos,
    Recorder,
    VirtualExecutor,
    VirtualTransport,
    virtual_pool,
)

pytestmark = pytest.mark.usefixtures("torch_threads")

SEEDS = range(60)


def chunks(count: int, step: int = 1) -> list[Chunk]:
    return chunks_of(7, step, 2 * count, 2, purpose="train", split="train")


def echo(work: Work, theta: Any, block: Block) -> Any:
    return [(work, theta, chunk.number) for chunk in block.chunks]


def pool(workers: int, seed: int, chaos: Chaos = CALM, on_poison: str = "abort") -> tuple[WorkerPool, VirtualTransport]:
    transport = VirtualTransport(workers, seed, echo, chaos)
    return virtual_pool(transport, workers, on_poison), transport


def scores(pool: WorkerPool, theta: Any, chunks: list[Chunk]) -> list[Any]:
    """Echoes are no reports: score hands results through as they are."""
    return list(pool.score(theta, chunks))


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(LIMITS)


ALL = pytest.mark.parametrize("chaos", [LOSSES, STRAYS, HANGS, EVERYTHING], ids=["losses", "strays", "hangs", "all"])


@pytest.mark.fault("F1")
@ALL
@pytest.mark.parametrize("workers", range(1, 8))
def test_each_chunk_is_accepted_once_whatever_happens(workers, chaos):
    """Workers of random speed that die, hang, leave and are replaced, or answer twice, or after they were given up."""
    replaced = 0
    for seed in SEEDS:
        ours, transport = pool(workers, seed, chaos)
        for step in range(1, 5):
            wanted = chunks((seed + 3 * step) % 11 + 1, step)
            results = scores(ours, step, wanted)
            assert sorted(results) == [("score", step, chunk.number) for chunk in wanted], f"seed {seed}, step {step}"
        replaced += len(transport.replaced)
    assert replaced > len(SEEDS) / 2, "nothing happened"


@pytest.mark.parametrize("workers", [1, 3])
def test_in_calm_each_chunk_is_dealt_once_and_in_order(workers):
    transport = VirtualTransport(workers, 0, echo)
    ours = WorkerPool(transport, transport.clock, Scheduler(Timeouts(copy_factor=1e9)), workers=workers)
    scores(ours, None, chunks(9))
    assert [lease.block.number for lease in transport.leases] == list(range(9))
    assert {lease.worker for lease in transport.leases} == set(range(workers))


def test_a_worker_begins_each_step_with_the_chunk_of_the_same_number():
    """So it may draw the tasks ahead. Workers of random speed answer in any order."""
    transport = VirtualTransport(3, 5, echo)
    ours = WorkerPool(transport, transport.clock, Scheduler(Timeouts(copy_factor=1e9)), workers=3)
    for step in range(1, 9):
        scores(ours, None, chunks(3, step))
    later = [lease for lease in transport.leases if lease.block.step > 1]  # in the first step they join one by one
    assert {lease.block.number - lease.worker for lease in later} == {0}


def test_rounds_do_not_mix():
    """A consumer that stops early leaves workers busy: their answers do not count for the next round."""
    for seed in SEEDS:
        ours, _ = pool(3, seed, LOSSES)
        first = ours.score("old", chunks(6))
        next(first)
        first.close()
        assert sorted(scores(ours, "new", chunks(6, 2))) == [("score", "new", number) for number in range(6)]
        assert sorted(scores(ours, "new", chunks(2, 3))) == [("score", "new", number) for number in range(2)]


def test_a_consumer_that_stops_early_leaves_no_assignment_unsent():
    """Else the scheduler counts a worker as busy that was never called."""
    ours, transport = pool(3, 0)
    first = ours.score("old", chunks(9))
    next(first)
    first.close()
    assert {lease.number for lease in transport.leases} == set(ours.scheduler.leases)


def test_a_round_of_a_few_chunks_of_a_step_deals_those():
    ours, transport = pool(1, 0)
    scores(ours, None, chunks(6))
    scores(ours, None, [chunks(6)[4], chunks(6)[1]])
    assert [lease.block.number for lease in transport.leases[6:]] == [4, 1]


def test_an_empty_round_is_over_at_once():
    ours, _ = pool(2, 0)
    assert scores(ours, None, []) == []


# F1: a lost worker.


@pytest.mark.fault("F1")
def test_a_lost_chunk_is_dealt_before_those_that_wait(scheduler):
    scheduler.submit("learn", chunks(5), 0.0)
    scheduler.on(Joined(0), 0.0)
    scheduler.on(Joined(1), 0.0)
    scheduler.on(Lost(0, "gone"), 1.0)
    (lease,) = [action for action in scheduler.on(Done(1, 2, "x"), 2.0) if isinstance(action, Assign)]
    assert lease.block.number == 0


@pytest.mark.fault("F9")
def test_a_late_answer_of_a_worker_that_was_given_up_counts_and_its_second_does_not(scheduler):
    scheduler.submit("learn", chunks(1), 0.0)
    scheduler.on(Joined(0), 0.0)
    scheduler.on(Lost(0, "cut off"), 1.0)
    assert scheduler.on(Done(0, 1, "late"), 2.0) == [Accept(0, "late")]
    assert scheduler.finished
    assert scheduler.on(Done(0, 1, "again"), 3.0) == []


def test_a_late_answer_does_not_make_a_busy_worker_idle(scheduler):
    """Else it is assigned a second chunk, and when it is lost the first one is assigned to nobody, for ever."""
    scheduler.submit("learn", chunks(3), 0.0)
    scheduler.on(Joined(0), 0.0)
    scheduler.submit("learn", chunks(3, 2), 1.0)
    (lease,) = scheduler.on(Done(0, 1, "of the round before"), 2.0)
    assert isinstance(lease, Assign)
    assert [action for action in scheduler.on(Done(0, 1, "and again"), 3.0) if isinstance(action, Assign)] == []


def test_a_chunk_that_was_answered_late_is_not_dealt_again(scheduler):
    scheduler.submit("learn", chunks(2), 0.0)
    scheduler.on(Joined(0), 0.0)
    scheduler.on(Lost(0, "cut off"), 1.0)
    scheduler.on(Done(0, 1, "late"), 2.0)
    (lease,) = scheduler.on(Joined(1), 3.0)
    assert isinstance(lease, Assign)
    assert lease.block.number == 1


def test_a_lost_worker_that_was_idle_is_replaced_and_not_dealt_to(scheduler):
    scheduler.on(Joined(0), 0.0)
    assert scheduler.on(Lost(0, "gone"), 1.0) == [Replace(0)]
    assert scheduler.submit("learn", chunks(1), 2.0) == []


# F2, F14: no answer.


@pytest.mark.fault("F2")
def test_a_chunk_whose_lease_ends_is_dealt_again_and_its_worker_replaced_later(scheduler):
    scheduler.lease_times.add("learn", 4.0)  # the lease is 5 × 4 s
    scheduler.submit("learn", chunks(1), 0.0)
    scheduler.on(Joined(0), 0.0)
    assert scheduler.tick(19.9) == []
    (note,) = scheduler.tick(20.1)
    assert isinstance(note, Note)
    assert "worker 0 has held chunk 0 of step 1" in note.text
    assert scheduler.on(Joined(1), 21.0) == [Assign(1, 2, Block((chunks(1)[0],)))]
    assert scheduler.tick(39.9) == []
    assert scheduler.tick(40.1) == [Replace(0)]
    assert scheduler.busy[1].seconds == 2 * 20.0


@pytest.mark.fault("F14")
def test_a_late_worker_that_answers_after_all_is_used_again(scheduler):
    scheduler.lease_times.add("learn", 1.0)
    scheduler.submit("learn", chunks(2), 0.0)
    scheduler.on(Joined(0), 0.0)
    scheduler.tick(10.5)
    actions = scheduler.on(Done(0, 1, "late"), 15.0)
    assert Accept(0, "late") in actions
    assert any(isinstance(action, Assign) and action.block.number == 1 for action in actions)


def test_a_chunk_that_simply_takes_long_gets_ever_longer_leases():
    """Tasks may differ a hundredfold: the run slows down, it does not end."""
    for seed in SEEDS:
        transport = VirtualTransport(2, seed, echo, Chaos(slow=1.0))
        ours = virtual_pool(transport, 2)
        ours.scheduler.lease_times.add("score", 1.0)
        assert len(scores(ours, None, chunks(3))) == 3


# F3: stragglers.


def test_an_idle_worker_gets_a_copy_of_a_straggler_s_chunk_and_the_first_answer_counts(scheduler):
    scheduler.lease_times.add("learn", 1.0)
    scheduler.submit("learn", chunks(2), 0.0)
    for number in (0, 1):
        scheduler.on(Joined(number), 0.0)
    scheduler.on(Done(1, 2, "quick"), 1.0)
    assert scheduler.tick(2.9) == []
    assert scheduler.tick(3.1) == [Assign(1, 3, Block((chunks(2)[0],)))]
    assert scheduler.tick(9.0) == [], "two copies are enough"
    assert scheduler.on(Done(1, 3, "copy"), 9.5) == [Accept(0, "copy")]
    scheduler.on(Done(0, 1, "straggler"), 10.0)
    assert sorted(scheduler.idle) == [0, 1]


@pytest.mark.fault("F3")
@pytest.mark.parametrize(("copy_factor", "slowest"), [(3.0, (4.0, 10.0)), (1e9, (20.0, 100.0))], ids=["copies", "none"])
def test_stragglers_do_not_hold_up_a_round(copy_factor, slowest):
    """2% of leases take a hundred times as long, and no lease ends: a round of 4 s takes twice that, or 6 times."""
    spans = []
    for seed in SEEDS:
        transport = VirtualTransport(4, seed, echo, Chaos(slow=0.02))
        timeouts = Timeouts(first_lease_s=1e4, lease_s=1e4, copy_factor=copy_factor)
        ours = WorkerPool(transport, transport.clock, Scheduler(timeouts), workers=4)
        for step in range(1, 9):
            scores(ours, None, chunks(16, step))
        spans.append(transport.clock.seconds / 8)
    assert slowest[0] < np.mean(spans) < slowest[1], np.mean(spans)


# F9, F8: duplicates.


def test_a_copy_with_other_numbers_ends_the_run(scheduler):
    scheduler.lease_times.add("learn", 1.0)
    scheduler.submit("learn", chunks(2), 0.0)
    for number in (0, 1):
        scheduler.on(Joined(number), 0.0)
    scheduler.on(Done(1, 2, "quick", (5,)), 1.0)
    scheduler.tick(4.0)
    scheduler.on(Done(1, 3, "copy", (8,)), 5.0)
    scheduler.submit("learn", chunks(1, 2), 5.0)  # the copy may well come after its round
    (abort,) = scheduler.on(Done(0, 1, "straggler", (9,)), 6.0)
    assert isinstance(abort, Abort)
    assert isinstance(abort.error, CorruptionError)
    assert "chunk 0 of step 1" in str(abort.error)
    assert "\n" not in str(abort.error)


def test_wrong_numbers_are_found_on_any_schedule():
    found = 0
    for seed in SEEDS:
        ours, _ = pool(3, seed, Chaos(slow=0.3, wrong=0.5))
        try:
            for step in range(1, 6):
                scores(ours, None, chunks(6, step))
        except CorruptionError:
            found += 1
    assert found > len(SEEDS) / 5


# Blocks.


@pytest.fixture
def paced(scheduler):
    """One that knows that a chunk takes a second, with a worker that has eight chunks of sixteen."""
    scheduler.lease_times.add("learn", 1.0)
    scheduler.on(Joined(0), 0.0)
    (first,) = scheduler.submit("learn", chunks(16), 0.0)
    assert first == Assign(0, 1, Block(tuple(chunks(16)[:8])))
    return scheduler


def test_chunks_go_one_by_one_until_it_is_known_how_long_one_takes():
    ours, transport = pool(2, 0)
    for step in (1, 2, 3):
        scores(ours, None, chunks(64, step))
    sizes = [[len(one.block.chunks) for one in transport.leases if one.block.step == step] for step in (1, 2, 3)]
    assert sizes[0] == [1] * 64
    assert sizes[1][:4] == [16, 16, 8, 8]
    assert all(len(one) < 20 for one in sizes[1:]), "8 blocks, and chunks of one that took far too long"


def test_a_block_is_one_result_and_its_lease_is_as_long_as_its_chunks_take(paced):
    assert (paced.busy[0].seconds, paced.lease_times.lease("learn")) == (40.0, LIMITS.lease_s)
    accept, second = paced.on(Done(0, 1, "eight"), 16.0)
    assert accept == Accept(0, "eight")
    assert [chunk.number for chunk in second.block.chunks] == [8, 9, 10, 11]
    assert paced.lease_times.durations["learn"][-1] == 2.0, "seconds of a chunk"


def assert_taken_apart(scheduler: Scheduler, actions: list[Any], worker: int) -> None:
    """Its chunks are leased next, in order and each by itself, and the answer to the whole counts no more."""
    number = next(action.lease for action in actions if isinstance(action, Assign))
    for chunk in chunks(16)[:8]:
        assert [one for one in actions if isinstance(one, Assign)] == [Assign(worker, number, Block((chunk,)))]
        actions = scheduler.on(Done(worker, number, "one"), 50.0)
        assert Accept(chunk.number, "one") in actions
        number += 1
    assert not any(isinstance(action, Accept) for action in scheduler.on(Done(0, 1, "eight"), 51.0))


def test_a_block_whose_worker_is_lost_is_taken_apart(paced):
    paced.on(Lost(0, "gone"), 4.0)
    assert_taken_apart(paced, paced.on(Joined(1), 5.0), 1)


def test_a_block_whose_lease_ends_is_taken_apart(paced):
    (note,) = paced.tick(40.5)
    assert "worker 0 has held chunks 0 to 7 of step 1 for" in note.text
    assert_taken_apart(paced, paced.on(Joined(1), 41.0), 1)


def test_a_block_that_takes_far_too_long_is_taken_apart_for_idle_workers(paced):
    paced.on(Joined(1), 0.0)
    for now in (4.0, 6.0, 8.0):
        paced.on(Done(1, paced.busy[1].number, "a second each"), now)
    assert paced.tick(23.9) == []
    assert_taken_apart(paced, paced.tick(24.1), 1)


# F30: poison.

POISON = "train/train/1/5"


@pytest.mark.fault("F30")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_task_that_kills_its_workers_is_tried_alone_and_named(workers):
    for seed in SEEDS:
        ours, transport = pool(workers, seed, Chaos(poison=frozenset({POISON})))
        with pytest.raises(PoisonError) as raised:
            scores(ours, None, chunks(5))
        message = str(raised.value)
        for expected in (f"task {POISON} of seed 7", "it was poisoned", "step=1, number=5", "on_poison=skip"):
            assert expected in message
        assert "train/train/1/4" not in message, "its neighbour is innocent"
        assert "\n" not in message
        copies = workers - 1
        assert 2 * MAX_LOSSES <= len(transport.replaced) <= 2 * (MAX_LOSSES + copies)


def test_a_task_that_kills_its_workers_is_found_in_a_block_too():
    for seed in SEEDS:
        ours, transport = pool(2, seed, Chaos(poison=frozenset({"train/train/2/5"})))
        scores(ours, None, chunks(32))
        with pytest.raises(PoisonError, match="task train/train/2/5 of seed 7"):
            scores(ours, None, chunks(32, 2))
        killed = [
            len(one.block.tickets) for one in transport.leases if "train/train/2/5" in {t.id for t in one.block.tickets}
        ]
        assert killed[0] == 16, "it was in a block of eight chunks"
        assert set(killed[1:]) == {1, 2}
        assert 2 * MAX_LOSSES <= len(transport.replaced) <= 2 * MAX_LOSSES + 2


def test_a_chunk_of_one_task_needs_no_trial():
    ours, transport = pool(2, 0, Chaos(poison=frozenset({POISON})))
    with pytest.raises(PoisonError, match=f"task {POISON}"):
        scores(ours, None, chunks_of(7, 1, 8, 1, purpose="train", split="train"))
    assert len(transport.replaced) == MAX_LOSSES


def test_a_chunk_that_kills_only_as_a_whole_is_named_as_a_whole():
    """Too large together for a worker's memory, say."""

    class TooMuch(VirtualTransport):
        def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
            self.chaos = Chaos(loss=float(block.number == 2 and len(block.tickets) > 1), losses=99)
            super().send(worker, lease, work, theta, block)

    for seed in range(10):
        transport = TooMuch(1, seed, echo)
        with pytest.raises(PoisonError, match=r"chunk 2 of step 1 \(train/train/1/4, train/train/1/5\)"):
            scores(virtual_pool(transport, 1), None, chunks(5))
        assert transport.killed == {(1, 2): 2 * MAX_LOSSES}


def test_poison_is_left_out_where_the_recipe_says_so_for_good():

    def report(work: Work, theta: Any, block: Block) -> Any:
        names = [tuple(ticket.id for ticket in chunk.tickets) for chunk in block.chunks]
        numbers = [chunk.number for chunk in block.chunks]
        return names, [Report(block.step, number, 0, 0.0, {}, (), {}, 0) for number in numbers]

    for seed in SEEDS:
        ours, transport = pool(3, seed, Chaos(poison=frozenset({POISON})), "skip")
        transport.compute = report
        for attempt in range(2):  # the second time it is known
            assigned = len(transport.leases)
            results = {
                one.chunk: (tasks, one.skipped)
                for names, reports in ours.learn(None, chunks(5))
                for tasks, one in zip(names, reports, strict=True)
            }
            assert results.pop(2) == (("train/train/1/4",), (POISON,))
            assert all(len(names) == 2 and not skipped for names, skipped in results.values())
            isolated_once = [
                lease for lease in transport.leases[assigned:] if POISON in {t.id for t in lease.block.tickets}
            ]
            assert bool(isolated_once) == (attempt == 0)


@pytest.mark.fault("F4")
def test_a_task_that_needs_more_memory_than_there_is_is_named_in_one_process_too(tmp_path):
    """torch says it with a RuntimeError of its own."""

    class Greedy(Bowls):
        def sample(self, ticket: Ticket) -> Any:
            if ticket.number == 5 and ticket.step == 1:
                torch.empty(1 << 60)
            return super().sample(ticket)

    executor = SerialExecutor(worker(ALGORITHM, Greedy(), chunk_size=2), coordinator(tmp_path))
    with pytest.raises(PoisonError, match=r"task train/train/1/5 .* has no memory left"):
        loop.train(executor, PLAN, Silent())
    executor.close("FAILED", {})


def test_two_kills_are_an_accident_and_are_forgotten_with_the_round():
    for seed in SEEDS:
        ours, transport = pool(2, seed, Chaos(loss=1.0, losses=2))
        for step in (1, 2, 3):
            assert len(scores(ours, None, chunks(3, step))) == 3
        assert set(transport.killed.values()) == {2}


# F31: a machine that keeps losing workers.


def test_a_machine_rests_after_its_second_loss_twice_as_long_each_time_and_is_forgiven():
    quarantine = Quarantine(Timeouts(backoff_s=(10.0, 25.0)))
    assert [quarantine.lost("a", now) for now in (0.0, 1.0, 2.0, 3.0)] == [None, 10.0, 20.0, 25.0]
    assert not quarantine.available("a", 27.9)
    assert quarantine.available("a", 28.0)
    assert quarantine.available("b", 0.0)
    for _ in range(16):
        quarantine.done("a")
    assert quarantine.lost("a", 50.0) is None


@pytest.mark.fault("F31")
def test_a_flaky_machine_gets_little_work_and_the_run_goes_on():
    class Flaky(VirtualTransport):
        def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
            self.chaos = Chaos(loss=0.9 * (worker % 3 == 0), losses=2)
            super().send(worker, lease, work, theta, block)

    transport = Flaky(6, 1, echo)
    ours = virtual_pool(transport, 6)
    notes: list[str] = []
    ours.note = notes.append
    for step in range(1, 40):
        assert len(scores(ours, None, chunks(9, step))) == 9
    there = sum(lease.worker % 3 == 0 for lease in transport.leases)
    assert there < 0.15 * len(transport.leases)
    assert any("node machine-0 keeps losing workers: no chunks are sent to it for" in note for note in notes)


def test_a_machine_that_is_the_only_one_does_not_rest():
    transport = VirtualTransport(2, 0, echo, Chaos(loss=0.4, losses=2), machines=1)
    ours = virtual_pool(transport, 2)
    for step in range(1, 20):
        scores(ours, None, chunks(4, step))
    assert transport.clock.seconds < 19 * 30


# F12, F20, F21, F32: machines that go, leave and come.


@pytest.mark.fault("F20")
def test_a_leaving_worker_keeps_its_result_and_gets_no_more(scheduler):
    scheduler.submit("learn", chunks(3), 0.0)
    for number in (0, 1):
        scheduler.on(Joined(number), 0.0)
    assert scheduler.on(Leaving(0), 1.0) == []
    assert scheduler.on(Leaving(0), 1.0) == []
    assert scheduler.on(Done(0, 1, "x"), 2.0) == [Replace(0), Accept(0, "x")]
    assert scheduler.on(Leaving(1), 3.0) == []
    assert scheduler.on(Lost(1, "taken away"), 4.0) == [Replace(1)]
    assert scheduler.quarantine.losses == {}, "it was last_status"
    assert scheduler.on(Joined(2), 5.0) == [Assign(2, 3, Block((chunks(3)[1],)))]


def test_an_idle_worker_that_leaves_is_replaced_at_once(scheduler):
    scheduler.on(Joined(0), 0.0)
    assert scheduler.on(Leaving(0), 1.0) == [Replace(0)]
    assert scheduler.on(Leaving(0), 2.0) == []


@pytest.mark.fault("F21")
def test_a_worker_that_joins_late_gets_work_at_once():
    transport = VirtualTransport(1, 0, echo)
    transport.join(1, after=5.0)
    scores(virtual_pool(transport, 1), None, chunks(20))
    assert any(lease.worker == 1 for lease in transport.leases)
    assert all(lease.at >= 5.0 for lease in transport.leases if lease.worker == 1)


@pytest.mark.fault("F32")
def test_with_no_worker_at_all_patience_ends_and_says_so_on_the_way():
    ours, transport = pool(3, 0, Chaos(joined=False))
    notes: list[str] = []
    ours.note = notes.append
    with pytest.raises(ClusterError, match="no worker was ready for 60 s.*--resume"):
        scores(ours, None, chunks(2))
    assert LIMITS.wait_s <= transport.clock.seconds <= LIMITS.wait_s + 2
    assert len(notes) == 5
    assert "waiting for 10 s, 60 s at most" in notes[0]


@pytest.mark.fault("F12")
def test_when_the_last_worker_is_not_replaced_patience_ends():
    ours, transport = pool(1, 0, Chaos(loss=1.0, replaced=False))
    with pytest.raises(ClusterError, match="no worker was ready"):
        scores(ours, None, chunks(2))
    assert len(transport.leases) == 1


def test_waiting_begins_anew_with_each_worker_that_joins(scheduler):
    scheduler.submit("learn", chunks(1), 0.0)
    assert scheduler.tick(100.0) == []
    assert not any(isinstance(action, Abort) for action in scheduler.tick(159.0))
    (lease,) = scheduler.on(Joined(0), 159.5)
    assert isinstance(lease, Assign)
    assert scheduler.tick(200.0) == []
    assert scheduler.on(Lost(0, "gone"), 201.0) == [Replace(0)]
    assert scheduler.tick(300.0) == []
    assert not any(isinstance(action, Abort) for action in scheduler.tick(359.9))
    assert any(isinstance(action, Abort) for action in scheduler.tick(360.0))


@ALL
def test_waiting_never_misses_what_time_brings(chaos):
    """Whenever the scheduler says that nothing happens for a while, a tick in that while does nothing."""

    class Checked(VirtualTransport):
        def poll(self, seconds: float) -> Any:
            assert 0.0 < seconds <= 1.0
            if seconds > 0.02:
                assert ours.scheduler.tick(self.clock.seconds + seconds - 0.011) == []
            return super().poll(seconds)

    for seed in range(20):
        transport = Checked(4, seed, echo, chaos)
        ours = virtual_pool(transport, 4)
        for step in range(1, 4):
            scores(ours, None, chunks(7, step))


ALGORITHM, SOURCE = maml(0.3, 2), Bowls(weighted=True)
PLAN = Plan(
    seed=3,
    steps=6,
    tasks_per_step=14,
    chunk_size=2,
    validation=None,
    validate_every=0,
    keeps_best=False,
    max_staleness=0,
    metric="",
    higher_is_better=False,
)


def coordinator(folder: Path) -> Coordinator:
    ours = worker(ALGORITHM, SOURCE, chunk_size=2)
    store = Store(ALGORITHM, ours.layout, vector(), {"model": Outer(lr=0.1, clip=1.0)}, PLAN.steps)
    storage = Local(folder)
    journal = Journal(storage)
    publisher = Publisher(Recorder(), journal, TrackedRun("a name", {}, {}), storage, 20)
    durability, identity = Durability(PLAN.steps, PLAN.steps, 1), Identity({}, {})
    return Coordinator(store, storage, durability, identity, journal, publisher, {}, accept_numerics=False)


class Silent:
    """Nobody looks on."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        assert np.isfinite(loss)

    def validated(self, *validation: object) -> None: ...

    def note(self, text: str) -> None: ...


def trained(executor: SerialExecutor) -> tuple[str, list[tuple[int, float]]]:
    """The hash of the last theta, and the loss curve."""
    theta = executor.fetch(loop.train(executor, PLAN, Silent()).theta)
    executor.coordinator.flush()  # the last step is journaled once its checkpoint is durable
    losses = [(entry.step, entry.metrics["train/loss"]) for entry in executor.coordinator.journal.since(0)]
    executor.close("FINISHED", {})
    return sha256(torch.from_numpy(theta)), losses


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[tuple[int, float]]]:
    folder = tmp_path_factory.mktemp("serial")
    return trained(SerialExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(folder)))


def test_a_run_with_blocks_gives_the_same_theta(serial, tmp_path):
    """On one, two and three workers; in one process there are blocks too."""
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        executor = VirtualExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(folder), workers, 0)
        assert trained(executor) == serial
        assert max(len(one.block.chunks) for one in executor.transport.leases) == {1: 4, 2: 2, 3: 2}[workers]


@ALL
@pytest.mark.parametrize("workers", [1, 2, 5, *(pytest.param(more, marks=pytest.mark.slow) for more in (3, 4, 6, 7))])
def test_training_gives_the_same_theta_whatever_the_schedule(serial, workers, chaos, tmp_path):
    executor = VirtualExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(tmp_path), workers, workers, chaos)
    assert trained(executor) == serial


def test_evaluation_gives_the_same_rows_whatever_the_schedule():
    plan = EvaluationPlan("test", 13, 5, 2, TaskShape(), "bowls")
    ours = worker(ALGORITHM, SOURCE, chunk_size=2)

    def compute(work: Work, theta: Any, block: Block) -> Any:
        return ours.score_block(theta, block)

    rows = []
    for workers, seed in ((1, 0), (3, 1), (7, 2)):
        transport = VirtualTransport(workers, seed, compute, LOSSES if seed else CALM)
        rows.append(evaluate(virtual_pool(transport, workers), vector().numpy(), plan).rows())
    assert rows[0] == rows[1] == rows[2]
    assert [row.point for row in rows[0]] == [0, 1, 2]


def test_tickets_of_a_chunk_say_where_they_belong():
    assert chunks(2)[1] == Chunk(1, 1, (Ticket(7, "train", "train", 1, 2), Ticket(7, "train", "train", 1, 3)))
