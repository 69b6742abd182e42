"""A training leaves its run behind and nothing else: no process, no shared memory, no file that has no purpose."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from pathlib import Path

import psutil
import pytest

from pipeline.config import load
from tests import quiet_runs
from tests.runtime.interrupted import ORPHANS_S, START_S, Training

MARK = "METAFLEET_TEST"
SHARED = Path("/dev/shm")
SERIAL, ON_RAY = ("--executor", "serial"), ("--executor", "ray", "--workers", "1")
RUN = {
    "recipe.yaml",
    "task.json",
    "journal.jsonl",
    "journal.sent",
    "tracked_run",
    "tracked_key",
    "lock",
    "epochs/00000001",
}
CHECKPOINT = re.compile(r"checkpoints/step-\d{8}\.safetensors")


@pytest.fixture
def training(migrated_mlflow, tmp_path, monkeypatch):
    """Starts a training whose processes all have a mark in their environment; none outlives the test."""
    monkeypatch.setenv(MARK, uuid.uuid4().hex)
    started = []

    def start(*arguments, database=migrated_mlflow):
        started.append(Training(tmp_path, database, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def marked():
    """The processes of the training, whoever their parent is by now."""
    return [one for one in psutil.process_iter() if environment(one).get(MARK) == os.environ[MARK]]


def environment(process):
    try:
        return process.environ()
    except psutil.Error:  # it is gone, or somebody else's
        return {}


def shared():
    """Files in shared memory, where Ray and torch put them; servers of MLflow make folders there."""
    return {str(path) for path in SHARED.iterdir() if path.is_file()}


def shared_by(processes):
    """Shared memory that processes hold, whether it still has a name or not."""
    held = [one.path for process in processes for one in maps_of(process)]
    return {path for path in held if path.startswith(f"{SHARED}/")}


def maps_of(process):
    try:
        return process.memory_maps()
    except psutil.Error:
        return []


def check(training, before, kept):
    deadline = time.monotonic() + ORPHANS_S
    while (orphans := marked()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphans
    # What came meanwhile and is in use is somebody else's: no process of this training is left.
    assert not shared() - before - shared_by(psutil.process_iter())
    files = {path.relative_to(training.run).as_posix() for path in training.run.rglob("*") if path.is_file()}
    checkpoints = {name for name in files if CHECKPOINT.fullmatch(name)}
    assert 1 <= len(checkpoints) <= 2
    assert files - checkpoints == kept


@pytest.mark.fault("F29")
@pytest.mark.parametrize(
    "options", [SERIAL, pytest.param(ON_RAY, marks=[pytest.mark.ray, pytest.mark.slow])], ids=["serial", "ray"]
)
def test_a_run_that_is_finished_leaves_its_results(training, options):
    """That no process of Ray is left, ``test_signals`` shows every day."""
    before = shared()
    run = training("steps=3", "evaluation.tasks=4", *options)
    run.wait_for("step ")
    assert shared_by(marked()) or options == SERIAL, "the mark is on the processes that share memory"
    assert run.process.wait(START_S) == 0, (run.folder / "err").read_text()
    check(run, before, RUN | {"summary.json"})


@pytest.mark.fault("F29")
@pytest.mark.ray
@pytest.mark.drill
def test_a_run_that_is_stopped_leaves_what_it_goes_on_from(training):
    before = shared()
    run = training("steps=1000000", "evaluation.tasks=4", "outer.model.schedule=constant", *ON_RAY)
    run.wait_for("step ")
    run.wait_for_tracker()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(START_S) == 128 + signal.SIGTERM, (run.folder / "err").read_text()
    check(run, before, RUN)


@pytest.mark.fault("F11")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [SERIAL, pytest.param(ON_RAY, marks=[pytest.mark.ray, pytest.mark.drill])],
    ids=["serial", "ray"],
)
def test_a_driver_that_is_killed_outright_leaves_nobody_behind_and_its_run_goes_on(
    training, options, tmp_path, torch_threads
):
    """``test_crashes`` ends such processes every day, at each point of a step."""
    few = ("steps=300", "evaluation.tasks=4")
    run = training(*few, *options)
    run.wait_for_tracker()
    left = run.end(signal.SIGKILL)
    assert left.code == -signal.SIGKILL
    assert 0 < left.checkpoint < 300
    # Two agents of Ray's own look for the raylet they have lost about once a minute.
    assert not [one for one in left.orphans if "DashboardAgent" not in one and "RuntimeEnvAgent" not in one]
    resumed = training(*few, *options, "--resume", database=None)
    assert resumed.process.wait(120) == 0, (tmp_path / "err").read_text()
    summary = json.loads((resumed.run / "summary.json").read_text())
    alone = quiet_runs.run(load("sinusoid_maml", ["tasks_per_step=8", "chunk_size=4", *few]), tmp_path / "alone", 0)
    assert summary["theta_sha256"] == alone.theta
    entries = [json.loads(line) for line in (resumed.run / "journal.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, 301))
