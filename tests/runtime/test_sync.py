"""What MLflow missed of a run is sent later, once, however often that is asked for; in a database and over HTTP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.failures import ConfigError
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import windows
from pipeline.runs.sync import sync_run
from pipeline.storage.local import Local
from tests.quiet_runs import run
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS, LOG_EVERY = 5, 2


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def uri(request):
    return request.getfixturevalue("mlflow_uri" if request.param == "database" else "server")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Path:
    """The folder of a run of which MLflow has heard nothing."""
    folder = tmp_path_factory.mktemp("unseen") / "run"
    run(recipe("maml", Path(), STEPS, tracking={"log_every": LOG_EVERY}), folder, 0)
    for name in ("journal.sent", "tracked_run"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def folder(unseen, tmp_path) -> Path:
    return Path(shutil.copytree(unseen, tmp_path / "run"))


def history(uri: str, run: str) -> dict[str, list[tuple[int, int, float]]]:
    client = MlflowClient(tracking_uri=uri)
    return {
        key: [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run, key)]
        for key in client.get_run(run).data.metrics
    }


def expected(folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    """What the journal says, in windows."""
    journal = Journal(Local(folder))
    journal.load()
    points: dict[str, list[tuple[int, int, float]]] = {}
    for entry in windows(journal.since(0), LOG_EVERY)[0]:
        for key, value in entry.metrics.items():
            points.setdefault(key, []).append((entry.step, entry.timestamp, pytest.approx(value, rel=1e-12)))
    return points


@pytest.mark.fault("F15")
def test_what_mlflow_missed_is_sent_once_however_often_it_is_sent(uri, folder):
    synced = sync_run(folder, [f"tracking.uri={uri}"])
    client = MlflowClient(tracking_uri=uri)
    first, found = history(uri, synced.run), client.get_run(synced.run)
    assert first == expected(folder)
    assert [step for step, _, _ in first["train/loss"]] == [2, 4, 5]
    assert (synced.status, found.info.status, found.data.tags["step"]) == ("FINISHED", "FINISHED", str(STEPS))
    assert found.data.params["algorithm.name"] == "maml"
    assert "numerics.cpu" in found.data.tags
    files = {item.path for item in client.list_artifacts(synced.run, "checkpoints")}
    assert files == {f"checkpoints/step-{STEPS:08d}.safetensors"}

    assert sync_run(folder, [f"tracking.uri={uri}"]) == synced
    (folder / "journal.sent").unlink()  # a crash between sending and noting it
    assert sync_run(folder, [f"tracking.uri={uri}"]) == synced
    assert history(uri, synced.run) == first


def test_a_run_that_was_killed_is_ended_as_killed(mlflow_uri, folder):
    journal = folder / "journal.jsonl"
    lines = [line for line in journal.read_text().splitlines(True) if json.loads(line)["kind"] != "FINISHED"]
    journal.write_text("".join(lines) + '{"kind": "train", "st')
    synced = sync_run(folder, [f"tracking.uri={mlflow_uri}"])
    assert MlflowClient(tracking_uri=mlflow_uri).get_run(synced.run).info.status == synced.status == "KILLED"
    assert history(mlflow_uri, synced.run) == expected(folder)


def test_a_run_that_was_deleted_is_followed_by_one_that_has_all(mlflow_uri, folder):
    client = MlflowClient(tracking_uri=mlflow_uri)
    gone = sync_run(folder, [f"tracking.uri={mlflow_uri}"]).run
    client.delete_run(gone)
    new = sync_run(folder, [f"tracking.uri={mlflow_uri}"]).run
    assert new != gone
    assert client.get_run(new).data.tags["resumed_from"] == gone
    assert history(mlflow_uri, new) == expected(folder)


def test_a_run_that_is_being_trained_is_left_alone(mlflow_uri, folder):
    trainer = Local(folder)
    trainer.lock()
    with pytest.raises(ConfigError, match="another run writes there"):
        sync_run(folder, [f"tracking.uri={mlflow_uri}"])
    trainer.release()
