"""A process that was taken for dead and comes back leaves the MLflow run of the one that took over as it is."""

from __future__ import annotations

import time

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.failures import FencedError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.interfaces import RUN_KEY
from pipeline.engine.serial import SerialExecutor
from pipeline.runs import run
from pipeline.runs.run import RunOptions, train_run
from tests.quiet_runs import Onlooker
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS = 6


def wait_for_tracker(folder):
    """Until MLflow has the run of the process that will be taken over."""
    deadline = time.monotonic() + 60.0
    while not (folder / "journal.sent").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TakenOver(Onlooker):
    """After step 3, another process takes over the run and finishes it; then ``afterwards`` happens to this one."""

    def __init__(self, of, folder, afterwards=lambda: None):
        super().__init__()
        self.of, self.folder, self.afterwards = of, folder, afterwards

    def step(self, step, loss, metrics, tasks_per_s):
        super().step(step, loss, metrics, tasks_per_s)
        if step == 3:
            wait_for_tracker(self.folder)
            (self.folder / "lock").unlink()
            assert train_run(self.of, RunOptions("serial", output=self.folder, resume=True), Onlooker()).unsent is None
            self.afterwards()


@pytest.fixture
def of(mlflow_uri):
    return recipe("maml", None, STEPS, tracking={"uri": mlflow_uri, "log_every": 1})


def check(of, folder):
    client = MlflowClient(tracking_uri=of.tracking.uri)
    tracked = client.get_run((folder / "tracked_run").read_text())
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["step"] == str(STEPS)
    key = tracked.data.tags[RUN_KEY]
    assert len(client.search_runs([tracked.info.experiment_id], f"tags.{RUN_KEY} = '{key}'")) == 1
    points = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("executor", ["serial", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_process_that_comes_back(of, tmp_path, executor, request):
    if executor == "ray":
        request.getfixturevalue("ray_local")
    folder = tmp_path / "run"
    with pytest.raises(FencedError, match="taken over by process"):
        train_run(of, RunOptions(executor, output=folder), TakenOver(of, folder))
    check(of, folder)


def come_back(of, folder, afterwards):
    """Train serially, be taken over, and go on after ``afterwards``; nothing of the other's run may have changed."""
    with pytest.raises(FencedError, match="taken over by process"):
        train_run(of, RunOptions("serial", output=folder), TakenOver(of, folder, afterwards))
    check(of, folder)


def test_one_that_comes_back_and_sees_its_files_changed(of, tmp_path, monkeypatch):
    def changed(*_):
        raise StorageError("the checkpoint does not read back as it was written")

    come_back(of, tmp_path / "run", lambda: monkeypatch.setattr(Checkpoints, "write", changed))


def test_one_that_comes_back_without_its_parameter_actor(of, tmp_path, monkeypatch):
    """The driver ends the MLflow run where nobody else can, but never another process's."""

    def lost(*_):
        return "the parameter actor failed"

    come_back(of, tmp_path / "run", lambda: monkeypatch.setattr(SerialExecutor, "close", lost))


def test_one_that_was_about_to_finish(of, tmp_path, monkeypatch):
    """It has trained to the end, and another process took over while it evaluated."""
    folder, scores = tmp_path / "run", run._final_scores

    def evaluated(*arguments):
        monkeypatch.setattr(run, "_final_scores", scores)
        wait_for_tracker(folder)
        (folder / "lock").unlink()
        train_run(of, RunOptions("serial", output=folder, resume=True), Onlooker())
        return scores(*arguments)

    monkeypatch.setattr(run, "_final_scores", evaluated)
    with pytest.raises(FencedError, match="taken over by process"):
        train_run(of, RunOptions("serial", output=folder), Onlooker())
    check(of, folder)
