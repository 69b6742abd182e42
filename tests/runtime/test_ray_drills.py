"""One drill for each kind of fault in a real Ray: the run goes on, and ends with the bits of a run without it.

Every day workers and a parameter actor are killed here, in one run: each process that starts costs seconds of imports.
The rest is slow: ``test_scheduler`` and ``test_durable_model`` do it in virtual time, to the same scheduler and
coordinator.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline.core.failures import ClusterError, PoisonError
from pipeline.core.seeding import Ticket
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.quiet_runs import durable, processes, run
from tests.runtime.planted import BuildDeadlyWorker, BuildStuckWorker, hung, killed, out_of_memory
from tests.runtime.tiny import STEPS, TASKS, recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local", "torch_threads")]

QUICK = Timeouts(wait_s=60.0, first_lease_s=30.0, lease_s=1.0, copy_s=30.0, answer_s=10.0)


@pytest.fixture(scope="module")
def tiny(small_images):
    """With a moving optimizer, so that a step that is applied twice or left out shows."""
    return recipe("maml", small_images, outer={"model": {"optimizer": "adam", "lr": 0.01}})


@pytest.fixture(scope="module")
def serial(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp("serial"), 0)


def mine(kind: str, before: set[int]) -> int:
    """The newest process of that kind that was not there before."""
    return max(set(processes(kind)) - before)


class At:
    """Sends a signal to an actor of this run once a step is done, and measures how long the next step takes."""

    def __init__(self, step: int, kind: str, number: int) -> None:
        self.step, self.kind, self.number = step, kind, number
        self.before = set(processes(kind))
        self.steps: list[int] = []
        self.sent = 0.0
        self.stall = 0.0

    def __call__(self, step: int) -> None:
        self.steps.append(step)
        if step == self.step and not self.sent:
            os.kill(mine(self.kind, self.before), self.number)
            self.sent = time.monotonic()
        elif self.sent and not self.stall:
            self.stall = time.monotonic() - self.sent


@pytest.mark.slow
@pytest.mark.fault("F10")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_parameter_actor_that_is_lost_is_built_again_from_its_checkpoint(number, tiny, serial, tmp_path):
    at = At(2, "ParameterActor", number)
    timeouts = QUICK if number == signal.SIGKILL else Timeouts(answer_s=3.0)
    assert run(tiny, tmp_path, 2, after=at, timeouts=timeouts) == serial
    assert at.stall < 15.0


@pytest.mark.fault("F1", "F10")
def test_a_run_that_loses_workers_and_its_parameter_actor_leaves_no_trace_of_it(tiny, serial, tmp_path):
    """Of two workers one dies between two steps and one in the middle of a chunk; the actor dies between checkpoints.

    The steps since are done again: the same bits, and not one line of the journal more.
    """
    rare = tiny.model_copy(update={"checkpoint": tiny.checkpoint.model_copy(update={"every": STEPS - 1})})
    worker, actor = At(1, "TaskWorker", signal.SIGKILL), At(STEPS - 2, "ParameterActor", signal.SIGKILL)
    marker = tmp_path / "died"
    deadly = BuildDeadlyWorker(tiny.model_dump_json(), Ticket(tiny.seed, "train", "train", 3, TASKS - 1), str(marker))

    def harm(step: int) -> None:
        worker(step)
        actor(step)

    outcome = run(rare, tmp_path / "run", 2, deadly, harm, QUICK)
    assert worker.sent
    assert actor.sent
    assert marker.exists()
    assert actor.steps == [*range(1, STEPS - 1), *range(1, STEPS + 1)], "steps were done again"
    assert outcome == serial


@pytest.mark.slow
@pytest.mark.fault("F10")
@pytest.mark.parametrize("every", [1, STEPS - 1], ids=["goes on", "goes back"])
def test_it_may_be_lost_between_steps_at_one_theta(every, tiny, tmp_path):
    """After step 1 of two at one theta: its contributions are applied again, or its steps done again from the start."""
    often = tiny.checkpoint.model_copy(update={"every": every})
    stale = tiny.model_copy(update={"max_staleness": 1, "checkpoint": often})
    at = At(1, "ParameterActor", signal.SIGKILL)

    def harm(step: int) -> None:
        if step == every:
            durable(tmp_path / "ray", step)
        at(step)

    assert run(stale, tmp_path / "ray", 2, after=harm, timeouts=QUICK) == run(stale, tmp_path / "serial", 0)
    assert at.sent
    assert at.steps == ([1, 2, 3, 4] if every == 1 else [1, 1, 2, 3, 4])


@pytest.mark.slow
def test_a_parameter_actor_that_dies_again_and_again_ends_the_run(tiny, tmp_path):
    def kill(step: int) -> None:
        os.kill(mine("ParameterActor", before), signal.SIGKILL)

    before = set(processes("ParameterActor"))
    with pytest.raises(ClusterError, match=r"the parameter actor was lost \d times in a row"):
        run(tiny, tmp_path, 1, after=kill, timeouts=Timeouts(rebuilds=0))


@pytest.mark.slow
@pytest.mark.fault("F1", "F2", "F4")
@pytest.mark.parametrize("harm", [killed, hung, out_of_memory], ids=lambda harm: harm.__name__)
def test_a_worker_that_is_lost_in_the_middle_of_a_chunk_leaves_no_trace(harm, tiny, serial, tmp_path):
    marker = tmp_path / "harmed"
    ticket = Ticket(tiny.seed, "train", "train", 3, TASKS - 1)
    deadly = BuildDeadlyWorker(tiny.model_dump_json(), ticket, str(marker), harm)
    assert run(tiny, tmp_path / "run", 2, deadly, timeouts=QUICK) == serial
    assert marker.exists()


@pytest.mark.slow
def test_a_worker_that_hangs_before_it_is_up_is_started_anew(tiny, serial, tmp_path):
    stuck = BuildStuckWorker(tiny.model_dump_json(), str(tmp_path / "marker"))
    timeouts = Timeouts(wait_s=120.0, start_s=8.0)
    assert run(tiny, tmp_path / "run", 1, stuck, timeouts=timeouts) == serial


@pytest.mark.slow
def test_the_only_worker_may_be_lost_too(tiny, serial, tmp_path):
    at = At(1, "TaskWorker", signal.SIGKILL)
    assert run(tiny, tmp_path, 1, after=at, timeouts=QUICK) == serial
    assert at.sent


@pytest.mark.slow
@pytest.mark.fault("F30")
def test_a_task_that_kills_every_worker_is_named(tiny, tmp_path):
    ticket = Ticket(tiny.seed, "train", "train", 1, 1)
    deadly = BuildDeadlyWorker(tiny.model_dump_json(), ticket, None)
    with pytest.raises(PoisonError, match=f"task {ticket.id} of seed {tiny.seed} kills every worker"):
        run(tiny, tmp_path, 2, deadly, timeouts=QUICK)
