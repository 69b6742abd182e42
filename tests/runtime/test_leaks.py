"""A training leaves its run behind and nothing else: no process, no shared memory, no file that has no purpose."""

from __future__ import annotations

import json
import os
import signal
import uuid

import pytest

from pipeline.config import load
from tests import quiet_runs
from tests.runtime.interrupted import START_S, Training
from tests.runtime.leftovers import MARK, RUN, check, marked, shared, shared_by

SERIAL, ON_RAY = ("--executor", "serial"), ("--executor", "ray", "--workers", "1")


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


@pytest.mark.fault("F29")
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_finished_leaves_its_results(training):
    """``test_jobs`` shows it of a run without Ray every day, and ``test_signals`` that no process of Ray is left."""
    before = shared()
    run = training("steps=3", "evaluation.tasks=4", *ON_RAY)
    run.wait_for("step ")
    assert shared_by(marked(os.environ[MARK])), "the mark is on the processes that share memory"
    assert run.process.wait(START_S) == 0, (run.folder / "err").read_text()
    check(run.run, os.environ[MARK], before, RUN | {"summary.json"})


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
    check(run.run, os.environ[MARK], before, RUN)


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
