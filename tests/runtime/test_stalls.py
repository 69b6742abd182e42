"""How long a run stands still when a process of it is killed, with the timeouts that users have."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipeline.core.seeding import Ticket
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.quiet_runs import processes, run
from tests.runtime.planted import BuildDeadlyWorker
from tests.runtime.tiny import TASKS, recipe

pytestmark = [pytest.mark.ray, pytest.mark.drill, pytest.mark.usefixtures("ray_local", "torch_threads")]

STEPS, KILLED = 30, 15
"""Late enough for the medians that leases and copies are measured by."""
WORKER_S, PARAMETER_ACTOR_S = 5.0, 10.0


@pytest.fixture(scope="module")
def tiny(small_images):
    return recipe("maml", small_images, STEPS)


@pytest.fixture(scope="module")
def serial(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp("serial"), 0)


class Watch:
    """When each step was done; kills the parameter actor of this run after step ``KILLED`` if it is asked to."""

    def __init__(self, *, kill: bool) -> None:
        self.kill, self.before = kill, set(processes("ParameterActor"))
        self.times: dict[int, float] = {}

    def __call__(self, step: int) -> None:
        self.times[step] = time.monotonic()
        if self.kill and step == KILLED:
            (mine,) = set(processes("ParameterActor")) - self.before
            os.kill(mine, signal.SIGKILL)

    def stall(self, name: str) -> float:
        """Seconds of the longest of the steps after the kill: what is lost may show only in the second."""
        seconds = max(self.times[step + 1] - self.times[step] for step in range(KILLED, STEPS))
        usual = (self.times[KILLED] - self.times[1]) / (KILLED - 1)
        print(f"{name}: {seconds:.2f} s, other steps {usual:.2f} s")  # noqa: T201  (shown with -s: a figure to write down)
        return seconds


@pytest.mark.parametrize("workers", [2, 1])
def test_a_worker_that_is_killed_at_work_costs_less_than_five_seconds(workers, tiny, serial, tmp_path):
    watch, marker = Watch(kill=False), tmp_path / "killed"
    ticket = Ticket(tiny.seed, "train", "train", KILLED + 1, TASKS - 1)
    deadly = BuildDeadlyWorker(tiny.model_dump_json(), ticket, str(marker))
    assert run(tiny, tmp_path / "run", workers, deadly, watch, Timeouts()) == serial
    assert marker.exists()
    assert watch.stall(f"one of {workers} workers killed") < WORKER_S


def test_a_parameter_actor_that_is_killed_costs_less_than_ten_seconds(tiny, serial, tmp_path):
    watch = Watch(kill=True)
    assert run(tiny, tmp_path, 2, after=watch, timeouts=Timeouts()) == serial
    assert watch.stall("parameter actor killed") < PARAMETER_ACTOR_S
