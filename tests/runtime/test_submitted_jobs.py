"""From end to end on a cluster: submitted, stopped, resumed, and the same theta as one process gives."""

from __future__ import annotations

import json
import sys
import time

import pytest

from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.storage.local import Local
from tests.quiet_runs import run
from tests.runtime.interrupted import status
from tests.runtime.small_cluster import SmallCluster

pytestmark = [pytest.mark.ray, pytest.mark.drill]

STEPS = 500
CHANGES = [f"steps={STEPS}", "tasks_per_step=8", "chunk_size=4", "evaluation.tasks=4"]
WAIT_S = 120.0


@pytest.fixture(scope="module")
def cluster():
    started = SmallCluster()
    yield started
    started.stop()


def wait_for(cluster, name, text, submitted):
    deadline = time.monotonic() + WAIT_S
    while text not in cluster.log(name):
        assert submitted.poll() is None, cluster.log(name)
        assert time.monotonic() < deadline, cluster.log(name)
        time.sleep(0.05)


def test_a_job_that_is_stopped_and_resumed_ends_like_one_process(cluster, migrated_mlflow, tmp_path, torch_threads):
    folder, database = tmp_path / "run", tmp_path / "mlflow.db"
    database.write_bytes(migrated_mlflow.read_bytes())
    train = ["sinusoid_maml", *CHANGES, "--workers", "2"]
    train += ["--output", str(folder), f"tracking.uri=sqlite:///{database}"]

    first = cluster.submit("first", *train)
    wait_for(cluster, "first", "step ", first)
    stopped = cluster.run(*cluster.command("stop", "first"))
    assert "was stopped" in stopped.stdout + stopped.stderr
    first.wait(WAIT_S)
    assert "stopped by SIGTERM" in cluster.log("first")
    done = Checkpoints(Local(folder), 1).steps()[-1]
    assert 0 < done < STEPS
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert entries[-1]["step"] == done
    assert status(database) == "KILLED"

    second = cluster.submit("second", *train, "--resume", "--address", "auto")
    assert second.wait(WAIT_S) == 0, cluster.log("second")
    summary = json.loads((folder / "summary.json").read_text())
    assert status(database) == "FINISHED"
    from pipeline.config import load

    alone = run(load("sinusoid_maml", CHANGES), tmp_path / "alone", 0)
    assert (summary["theta_sha256"], summary["steps"]) == (alone.theta, STEPS)


def test_paths_that_a_job_would_lose_are_refused(cluster):
    job = cluster.submit("relative", "sinusoid_maml", "steps=2", "--address", "auto", "--output", "runs/first")
    assert job.wait(WAIT_S) != 0
    log = cluster.log("relative")
    assert "error: Ray deletes a job's working directory when the job ends: --output 'runs/first' is relative" in log
    assert "tracking.uri 'sqlite:///mlflow.db' is relative" in log


def test_the_doctor_on_a_cluster(cluster):
    doctor = [sys.executable, "-m", "jobs.doctor", "--address", cluster.address]
    healthy = cluster.run(*doctor, "workers.count=4")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "2 nodes with Ray " in healthy.stdout
    assert f"http://{cluster.dashboard}/api/jobs/ refuses who has no token" in healthy.stdout
    ill = cluster.run(*doctor, "workers.count=5")
    assert ill.returncode == 3
    assert "--workers 4, which gives the same result" in ill.stdout
    stranger = cluster.run(*doctor, RAY_AUTH_TOKEN="0" * 64)
    assert stranger.returncode == 3
    assert "RAY_AUTH_MODE=token" in stranger.stdout, stranger.stdout + stranger.stderr
