"""SIGTERM and Ctrl-C end a training within two seconds: the last finished step on disk, the MLflow run KILLED."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading

import psutil
import pytest

from pipeline.config import load
from tests import quiet_runs
from tests.runtime.interrupted import END_S, Training

MANY = ("steps=1000000", "evaluation.tasks=4", "outer.model.schedule=constant")
FEW = ("steps=2", "evaluation.tasks=20000")
SERIAL, RAY = ("--executor", "serial"), ("--executor", "ray", "--workers", "1")
TERM, INT = signal.SIGTERM, signal.SIGINT

on_ray = [pytest.mark.ray, pytest.mark.slow]
drill = [*on_ray, pytest.mark.drill]


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


@pytest.mark.parametrize(
    ("where", "number", "group"),
    [
        pytest.param(SERIAL, TERM, False, id="serial-SIGTERM"),
        pytest.param(SERIAL, INT, False, id="serial-SIGINT"),
        pytest.param(RAY, TERM, False, id="ray-SIGTERM", marks=on_ray),
        pytest.param(RAY, INT, True, id="ray-Ctrl-C-in-a-terminal", marks=drill),
    ],
)
def test_a_signal_in_the_middle_of_training(training, where, number, group):
    run = training(*MANY, "checkpoint.every=1000000", *where)
    run.wait_for("step ")
    run.wait_for_tracker()
    left = run.end(number, group=group)
    assert left.code == 128 + number
    assert left.status == "KILLED"
    assert left.checkpoint == left.journal > 0
    assert left.err.startswith(f"stopped by {number.name}\nstep {left.journal} is kept; to go on, add --resume")
    assert left.seconds < END_S
    assert not left.orphans


@pytest.mark.parametrize("where", [SERIAL, pytest.param(RAY, marks=drill)], ids=["serial", "ray"])
def test_a_driver_that_is_killed_outright_leaves_nobody_behind_and_its_run_goes_on(training, where, tmp_path):
    few = ("steps=300", "evaluation.tasks=4")
    run = training(*few, *where)
    run.wait_for_tracker()
    left = run.end(signal.SIGKILL)
    assert left.code == -signal.SIGKILL
    assert 0 < left.checkpoint < 300
    # Two agents of Ray's own look for the raylet they have lost about once a minute.
    assert not [one for one in left.orphans if "DashboardAgent" not in one and "RuntimeEnvAgent" not in one]
    resumed = training(*few, *where, "--resume", database=None)
    assert resumed.process.wait(120) == 0, (tmp_path / "err").read_text()
    summary = json.loads((resumed.run / "summary.json").read_text())
    alone = quiet_runs.run(load("sinusoid_maml", ["tasks_per_step=8", "chunk_size=4", *few]), tmp_path / "alone", 0)
    assert summary["theta_sha256"] == alone.theta
    entries = [json.loads(line) for line in (resumed.run / "journal.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, 301))


@pytest.mark.parametrize("where", [SERIAL, pytest.param(RAY, marks=drill)], ids=["serial", "ray"])
def test_a_signal_during_evaluation(training, where):
    run = training(*FEW, *where)
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


@pytest.mark.parametrize("where", [SERIAL, pytest.param(RAY, marks=drill)], ids=["serial", "ray"])
def test_an_mlflow_that_never_answers_holds_nobody_up(training, where, silent_server):
    run = training(*MANY, f"tracking.uri={silent_server}", *where, database=None)
    run.wait_for("step ")
    left = run.end(TERM)
    assert left.code == 143
    assert left.checkpoint == left.journal > 0
    assert left.seconds < END_S
    assert not left.orphans


@pytest.mark.ray
@pytest.mark.slow
def test_where_the_parameter_actor_hangs_the_driver_ends_the_mlflow_run(training):
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
