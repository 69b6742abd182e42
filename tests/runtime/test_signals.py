"""SIGTERM and Ctrl-C end a training within two seconds: the last finished step on disk, the MLflow run KILLED."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.config import load
from pipeline.core.failures import Stopped
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.durability.journal import Journal
from pipeline.runs.run import RunOptions, train_run
from pipeline.storage.local import Local
from tests import quiet_runs
from tests.runtime.interrupted import END_S, START_S, Training, status

MANY = ("steps=1000000", "evaluation.tasks=4", "outer.model.schedule=constant")
FEW = ("steps=2", "evaluation.tasks=20000")
SERIAL, RAY = ("--executor", "serial"), ("--executor", "ray", "--workers", "1")
TERM, INT = signal.SIGTERM, signal.SIGINT

drill = [pytest.mark.ray, pytest.mark.drill]


@pytest.fixture
def training(migrated_mlflow, tmp_path):
    """Starts a training; none outlives the test."""
    started = []

    def start(*arguments, database=migrated_mlflow):
        started.append(Training(tmp_path, database, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def stopped(tmp_path, torch_threads):
    """Trains in this process, which gets a signal once a step is done: the seconds it takes to end, and the steps kept.

    What a process adds to this is a signal from outside and the exit code: one run in one process shows both.
    """

    def train(number, after, *changes, tracked=True) -> tuple[float, int, int]:
        asked = []

        def ask(step):
            if step == after:
                # Before the run is in MLflow there is none to be ended.
                deadline = time.monotonic() + START_S
                while tracked and not (tmp_path / "run" / "journal.sent").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                asked.append(time.monotonic())
                signal.raise_signal(number)

        recipe = load(
            "sinusoid_maml",
            ["tasks_per_step=8", "chunk_size=4", "tracking.log_every=1", "tracking.report=false", *changes],
        )
        with pytest.raises(Stopped) as raised:
            train_run(recipe, RunOptions("serial", output=tmp_path / "run"), quiet_runs.Onlooker(ask))
        seconds = time.monotonic() - asked[0]
        assert raised.value.exit_code == 128 + number
        storage = Local(tmp_path / "run")
        journal = Journal(storage)
        journal.load()
        return seconds, max(one.step for one in journal.since(0)), Checkpoints(storage, 1).steps()[-1]

    return train


@pytest.mark.fault("F19")
@pytest.mark.parametrize("number", [TERM, INT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("changes", "after"),
    [((*MANY, "checkpoint.every=1000000"), 5), (FEW, 2)],
    ids=["in training", "in evaluation"],
)
def test_a_signal_keeps_the_last_step_and_ends_the_mlflow_run(stopped, mlflow_uri, number, changes, after):
    seconds, journal, checkpoint = stopped(number, after, *changes, f"tracking.uri={mlflow_uri}")
    assert seconds < END_S
    assert journal == checkpoint == after
    assert status(Path(mlflow_uri.removeprefix("sqlite:///"))) == "KILLED"


# What a signal does without Ray is shown above, in this process; on Ray ``test_own_parts`` shows it every day.
@pytest.mark.fault("F19")
@pytest.mark.parametrize(
    ("options", "number", "group"),
    [
        pytest.param(SERIAL, INT, False, id="serial-SIGINT", marks=pytest.mark.slow),
        pytest.param(RAY, TERM, False, id="ray-SIGTERM", marks=[pytest.mark.ray, pytest.mark.slow]),
        pytest.param(RAY, INT, True, id="ray-Ctrl-C-in-a-terminal", marks=drill),
    ],
)
def test_a_signal_in_the_middle_of_training(training, options, number, group):
    run = training(*MANY, "checkpoint.every=1000000", *options)
    run.wait_for("step ")
    run.wait_for_tracker()
    left = run.end(number, group=group)
    assert left.code == 128 + number
    assert left.status == "KILLED"
    assert left.checkpoint == left.journal > 0
    assert left.err.startswith(f"stopped by {number.name}\nstep {left.journal} is kept; to go on, add --resume")
    assert left.seconds < END_S
    assert not left.orphans


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "started"),
    [
        *(pytest.param(number, "raylet", marks=pytest.mark.slow) for number in (TERM, INT)),
        pytest.param(TERM, "gcs_server", marks=pytest.mark.drill),
    ],
)
def test_a_signal_while_ray_starts(training, number, started):
    """Ray keeps the main thread for seconds, and its agents would outlive a head that was killed by a minute."""
    run = training(*MANY, *RAY)
    run.wait_for_child(started)
    left = run.end(number)
    assert (left.code, left.err) == (128 + number, f"stopped by {number.name}\n")
    assert left.seconds < END_S
    assert not left.orphans
    assert left.checkpoint == left.journal == 0


@pytest.mark.ray
@pytest.mark.drill
def test_a_signal_during_evaluation_on_ray(training):
    run = training(*FEW, *RAY)
    run.wait_for("step 2/2")
    run.wait_for_tracker()
    left = run.end(TERM)
    assert (left.code, left.status, left.checkpoint) == (143, "KILLED", 2)
    assert left.seconds < END_S
    assert not left.orphans


@pytest.fixture
def silent_server():
    """An MLflow that answers the question whether it is there, and nothing after that."""
    listening = socket.create_server(("127.0.0.1", 0))
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    open_: list[socket.socket] = []

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # closed: the test is over
                return
            open_.append(connection)
            if len(open_) == 1:
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    for connection in open_:
        connection.close()


def test_an_mlflow_that_never_answers_holds_nobody_up(stopped, silent_server):
    seconds, journal, checkpoint = stopped(TERM, 5, *MANY, f"tracking.uri={silent_server}", tracked=False)
    assert seconds < END_S
    assert journal == checkpoint == 5


@pytest.mark.ray
@pytest.mark.drill
def test_an_mlflow_that_never_answers_holds_nobody_up_on_ray(training, silent_server):
    run = training(*MANY, f"tracking.uri={silent_server}", *RAY, database=None)
    run.wait_for("step ")
    left = run.end(TERM)
    assert left.code == 143
    assert left.checkpoint == left.journal > 0
    assert left.seconds < END_S
    assert not left.orphans


@pytest.mark.ray
@pytest.mark.slow
def test_where_the_parameter_actor_hangs_the_driver_ends_the_mlflow_run(training):
    """``test_run_ender`` has a driver end a run for its parameter actor, every day."""
    run = training(*MANY, *RAY)
    run.wait_for("step ")
    run.wait_for_tracker()
    (actor,) = [one for one in psutil.Process(run.process.pid).children(recursive=True) if "Parameter" in one.name()]
    os.kill(actor.pid, signal.SIGSTOP)
    left = run.end(TERM)
    assert (left.code, left.status) == (143, "KILLED")
    assert left.checkpoint >= left.journal > 0
    assert left.seconds < END_S
    assert not left.orphans
