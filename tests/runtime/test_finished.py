"""A run that is finished and resumed: it is left as it is, or evaluated anew with all that was measured before."""

from __future__ import annotations

import json

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.failures import ResumeError
from pipeline.runs.run import RunOptions, train_run
from pipeline.runs.sync import sync_run
from tests.quiet_runs import Onlooker
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS = 3


@pytest.fixture
def trained(mlflow_uri, tmp_path):
    """Trains with some changes: the end, and the MLflow run."""

    def train(*, resume=True, **changes):
        of = recipe("maml", None, STEPS, tracking={"uri": mlflow_uri, "log_every": 1}, **changes)
        ended = train_run(of, RunOptions("serial", output=tmp_path / "run", resume=resume), Onlooker())
        assert ended.unsent is None
        run = (tmp_path / "run" / "tracked_run").read_text()
        return ended, MlflowClient(tracking_uri=mlflow_uri).get_run(run)

    return train


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_finished_run_is_left_as_it_is(trained, tmp_path):
    ended, run = trained(resume=False)
    before = files(tmp_path / "run")
    again, same = trained()
    assert again.summary == ended.summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {name: values.tolist() for name, values in again.scores.metrics.items()} == {
        name: values.tolist() for name, values in ended.scores.metrics.items()
    }
    assert files(tmp_path / "run") == before
    assert (same.info.end_time, same.data.metrics) == (run.info.end_time, run.data.metrics)
    with pytest.raises(ResumeError, match="seed: .* -> 99"):
        trained(seed=99)
    assert files(tmp_path / "run").keys() >= before.keys()


def test_another_evaluation_of_a_finished_run_is_in_the_summary_and_in_mlflow(trained, mlflow_uri, tmp_path):
    first, _ = trained(resume=False)
    for tasks in (6, 4):  # another one, and then the first again
        ended, run = trained(evaluation={"tasks": tasks})
        rows = ended.summary["evaluation"]["rows"]
        shown = {row: run.data.metrics[row] for row in run.data.metrics if row.startswith("eval/")}
        expected = {f"eval/{row['metric']}": row["mean"] for row in rows}  # of the last inner step
        assert shown == expected | {f"eval/{row['metric']}_ci95": row["ci95"] for row in rows}
        assert run.info.status == "FINISHED"
        assert ended.summary["evaluation"]["tasks"] == tasks
        assert {**ended.summary, "evaluation": None} == {**first.summary, "evaluation": None}
    assert ended.summary == first.summary
    assert sync_run(tmp_path / "run", [f"tracking.uri={mlflow_uri}"]).status == "FINISHED"


def test_a_finished_run_that_mlflow_does_not_know_is_sent_again(trained, mlflow_uri):
    first, run = trained(resume=False)
    client = MlflowClient(tracking_uri=mlflow_uri)
    client.delete_run(run.info.run_id)
    ended, new = trained()
    assert ended.summary == first.summary
    assert new.info.run_id != run.info.run_id
    assert (new.info.status, new.data.metrics) == ("FINISHED", run.data.metrics)
