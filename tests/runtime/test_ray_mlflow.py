"""The run as people find it in MLflow: written by the parameter actor, whole, and once, also after a resume.

``test_own_parts`` shows every day that each step of such a run is there once.
"""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from pipeline.config import load
from pipeline.recipes import flatten
from pipeline.runs.run import RunOptions, train_run
from tests.quiet_runs import Onlooker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("torch_threads")]

HALF, STEPS = 3, 6


@pytest.fixture
def session(ray_local, mlflow_uri, tmp_path):
    """Trains up to ``steps``, on one Ray worker or in this process; returns the end and what MLflow has."""
    client = MlflowClient(tracking_uri=mlflow_uri)

    def train(steps, executor, *, resume):
        changes = [f"steps={steps}", "workers.count=1", f"tracking.uri={mlflow_uri}", "tracking.log_every=1"]
        changes += ["tasks_per_step=8", "chunk_size=2", "evaluation.tasks=4"]
        # A schedule that ends with the run cannot be resumed to go further.
        recipe = load("sinusoid_maml", [*changes, "outer.model.schedule=constant"])
        ended = train_run(recipe, RunOptions(executor, "local", tmp_path / "run", resume), Onlooker())
        assert ended.unsent is None
        return ended.summary, client, client.get_run((tmp_path / "run" / "tracked_run").read_text())

    return train


@pytest.mark.slow
def test_a_run_on_ray_is_whole_and_resumed_it_has_each_step_once(session):
    summary, client, run = session(HALF, "ray", resume=False)
    assert run.info.status == "FINISHED"
    params, tags = run.data.params, run.data.tags
    assert set(params) == set(flatten(load("sinusoid_maml").model_dump(mode="json")))
    assert (params["algorithm.inner_lr"], params["steps"]) == ("0.01", str(HALF))
    assert (tags["theta_sha256"], tags["step"]) == (summary["theta_sha256"], str(HALF))
    assert {"git_commit", "data", "normalisation", "folder", "numerics.torch", "numerics.isa"} <= set(tags)
    files = {item.path for folder in ("", "checkpoints") for item in client.list_artifacts(run.info.run_id, folder)}
    assert {"recipe.yaml", "summary.json", f"checkpoints/step-{HALF:08d}.safetensors"} <= files

    summary, client, resumed = session(STEPS, "serial", resume=True)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert resumed.info.run_id == run.info.run_id
    assert resumed.info.status == "FINISHED"
    assert resumed.data.params == params
    tags = resumed.data.tags
    assert (tags["theta_sha256"], tags["step"], tags["resume.steps"]) == (summary["theta_sha256"], "6", "6")

    def steps(key):
        return [point.step for point in client.get_metric_history(run.info.run_id, key)]

    every = list(range(1, STEPS + 1))
    assert steps("train/loss") == steps("train/mse") == steps("train/grad_norm/model") == every
    # A step's timing is known when the next one begins, and is not carried from one session to the next.
    timed = [step for step in every if step not in (1, HALF + 1)]
    parts = {key for key in resumed.data.metrics if key.startswith("time/")}
    assert {"time/sampling", "time/inner_loop", "time/reduction", "time/waiting"} <= parts
    assert all(steps(key) == timed for key in (parts | {"tasks_per_s"}) - {"time/transport"})
    assert steps("time/transport") == [2, 3], "there is no transport in one process"
    rows = summary["evaluation"]["rows"]
    points = {
        metric: [row["point"] for row in rows if row["metric"] == metric] for metric in {r["metric"] for r in rows}
    }
    table = {f"eval/{metric}{kind}": found for metric, found in points.items() for kind in ("", "_ci95")}
    assert {key for key in resumed.data.metrics if key.startswith("eval/")} == set(table)
    assert all(sorted(steps(key)) == sorted(2 * found) for key, found in table.items()), "of the half and of the whole"
