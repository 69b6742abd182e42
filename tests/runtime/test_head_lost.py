"""The head and the driver's raylet are not survived: a run ends in one line, and goes on exactly where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.config import load
from tests.quiet_runs import run
from tests.runtime.interrupted import Training, status
from tests.runtime.small_cluster import ROOT, SmallCluster

pytestmark = [pytest.mark.ray, pytest.mark.drill]

STEPS = 300
CHANGES = [f"steps={STEPS}", "tasks_per_step=8", "chunk_size=4", "evaluation.tasks=4", "tracking.report=false"]
WAIT_S = 180.0
ENDS_S = 120.0
"""Long before, Ray would have ended the driver by itself, with an exit code of 1 and no line of ours."""
RAYLET_ENDS_S = 30.0
"""Without a raylet a run would wait five minutes for a worker."""


@pytest.fixture
def start():
    """Starts clusters; none outlives the test."""
    started = []

    def cluster():
        started.append(SmallCluster())
        return started[-1]

    yield cluster
    for one in started:
        one.stop()


def train(cluster, folder, database, *more):
    """A driver on the head's machine; the cluster stops it if it must."""
    command = [sys.executable, "-m", "jobs.train", "sinusoid_maml", *CHANGES, f"tracking.uri=sqlite:///{database}"]
    command += ["--address", cluster.address, "--workers", "2", "--output", str(folder), *more]
    driver = subprocess.Popen(
        command,
        cwd=ROOT,
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    cluster.processes.append(driver)
    return driver


def steps_in(folder):
    journal = folder / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [entry["step"] for entry in entries if entry["kind"] == "train"]


def wait_for_steps(folder, driver):
    deadline = time.monotonic() + WAIT_S
    while len(steps_in(folder)) < 20:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.fault("F13")
def test_a_run_whose_head_is_lost_ends_and_goes_on_on_another_cluster(start, migrated_mlflow, tmp_path, torch_threads):
    folder, database = tmp_path / "run", tmp_path / "mlflow.db"
    database.write_bytes(migrated_mlflow.read_bytes())
    cluster = start()
    driver = train(cluster, folder, database)
    wait_for_steps(folder, driver)
    (gcs,) = [one for one in psutil.Process(cluster.processes[0].pid).children() if one.name() == "gcs_server"]
    os.kill(gcs.pid, signal.SIGKILL)
    lost = time.monotonic()
    _, complaint = driver.communicate(timeout=ENDS_S)
    ended = time.monotonic() - lost
    assert driver.returncode == 3, complaint
    assert complaint.startswith("error: the Ray head at")
    assert "Traceback" not in complaint
    done = steps_in(folder)
    assert 20 <= len(done) < STEPS
    cluster.stop()

    again = train(start(), folder, database, "--resume")
    _, complaint = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0, complaint
    assert steps_in(folder) == list(range(1, STEPS + 1))
    alone = run(load("sinusoid_maml", CHANGES), tmp_path / "alone", 0)
    assert json.loads((folder / "summary.json").read_text())["theta_sha256"] == alone.theta
    assert status(database) == "FINISHED"
    print(f"ended {ended:.1f} s after its head, at step {done[-1]}")  # noqa: T201  (shown with -s: a figure to write down)


@pytest.mark.fault("F12")
def test_a_run_whose_raylet_is_killed_ends_in_seconds_and_goes_on(migrated_mlflow, tmp_path, torch_threads):
    training = Training(
        tmp_path, migrated_mlflow, f"steps={STEPS}", "evaluation.tasks=4", "--executor", "ray", "--workers", "2"
    )
    try:
        wait_for_steps(training.run, training.process)
        (raylet,) = [one for one in psutil.Process(training.process.pid).children() if one.name() == "raylet"]
        os.kill(raylet.pid, signal.SIGKILL)
        lost = time.monotonic()
        assert training.process.wait(RAYLET_ENDS_S) == 3
        ended = time.monotonic() - lost
    finally:
        training.kill()
    complaint = (tmp_path / "err").read_text()
    assert complaint.startswith("error: the raylet of this machine")
    assert complaint.count("\n") == 1
    done = steps_in(training.run)
    assert 20 <= len(done) < STEPS
    assert status(tmp_path / "mlflow.db") == "FAILED"

    again = Training(tmp_path, None, f"steps={STEPS}", "evaluation.tasks=4", "--executor", "serial", "--resume")
    assert again.process.wait(WAIT_S) == 0, (tmp_path / "err").read_text()
    assert steps_in(training.run) == list(range(1, STEPS + 1))
    alone = run(load("sinusoid_maml", CHANGES), tmp_path / "alone", 0)
    assert json.loads((training.run / "summary.json").read_text())["theta_sha256"] == alone.theta
    print(f"ended {ended:.1f} s after its raylet, at step {done[-1]}")  # noqa: T201  (shown with -s: a figure to write down)
