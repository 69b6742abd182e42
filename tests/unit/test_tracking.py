"""The MLflow tracker against a real database: what is sent twice is stored once, and no secret is ever said."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import shutil
import sqlite3

import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.failures import ConfigError, InternalError, PipelineError
from pipeline.engine.interfaces import RUN_KEY, Entry
from pipeline.tracking.mlflow_tracker import MLflowTracker, how_to_open, probe
from pipeline.tracking.uri import absolute


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An empty MLflow database; laying out its tables takes seconds, so it is done once and copied."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated, tmp_path):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def tracker(uri):
    return MLflowTracker(uri, "metafleet")


def started(tracker, params=None, tags=None, run=None):
    return tracker.start(run, "a name", params or {}, tags or {})


def stored(uri, run):
    return MlflowClient(tracking_uri=uri).get_run(run)


def history(uri, run, key):
    points = MlflowClient(tracking_uri=uri).get_metric_history(run, key)
    return [(point.step, point.timestamp, point.value) for point in points]


def runs(uri):
    with sqlite3.connect(absolute(uri).removeprefix("sqlite:///")) as database:
        return database.execute("select count(*) from runs").fetchone()[0]


def test_a_tracker_travels_as_its_arguments(uri):
    tracker = pickle.loads(pickle.dumps(MLflowTracker(uri, "metafleet")))
    run = started(tracker)
    assert stored(uri, run).info.status == "RUNNING"


def test_a_new_run_has_name_params_and_tags(uri, tracker):
    params = {f"algorithm.p{index}": str(index) for index in range(230)} | {"net.text": "x" * 7000}
    run = started(tracker, params, {"git.commit": "abc", "numerics": "y" * 9000})
    found = stored(uri, run)
    assert found.info.run_name == "a name"
    assert found.data.params == {**params, "net.text": "x" * 6000}
    assert found.data.tags["git.commit"] == "abc"
    assert found.data.tags["numerics"] == "y" * 8000


def test_credentials_in_params_and_tags_are_not_shown(uri, tracker):
    server = "http://me:hunter2@lab:5000"
    found = stored(uri, started(tracker, {"tracking.uri": server}, {"command": f"train tracking.uri={server} seed=7"}))
    assert found.data.params["tracking.uri"] == "http://***@lab:5000"
    assert found.data.tags["command"] == "train tracking.uri=http://***@lab:5000 seed=7"


def test_metrics_keep_their_own_step_and_timestamp(uri, tracker):
    run = started(tracker)
    tracker.send([Entry("train", step, 1_000_000 + step, {"train/loss": step / 7}) for step in (1, 2, 3)])
    assert history(uri, run, "train/loss") == [(step, 1_000_000 + step, step / 7) for step in (1, 2, 3)]


def test_replay_stores_nothing_twice(uri, tracker):
    run = started(tracker)
    entries = [
        Entry("train", step, 1_000_000 + step, {"train/loss": 1 / step, "bad": math.nan, "worse": math.inf})
        for step in range(1, 401)
    ]
    tracker.send(entries[:250])
    tracker.send(entries)
    other = MLflowTracker(uri, "metafleet")
    assert started(other, run=run) == run
    other.send(entries[350:])
    assert history(uri, run, "train/loss") == [(entry.step, entry.timestamp, 1 / entry.step) for entry in entries]
    for key in ("bad", "worse"):
        points = history(uri, run, key)
        assert len(points) == len(entries)
        assert all(math.isnan(value) for _, _, value in points)


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("train/acc@5", "train/acc_at_5"),
        ("skipped%", "skipped_pct_"),
        ("eval/class #3 (é)", "eval/class _3 _é_"),
        ("//a//b/", "a/b"),
        ("../up/./x", "_/up/_/x"),
        ("a:b-c.d_e f", "a:b-c.d_e f"),
        ("", "_"),
    ],
)
def test_metric_names_are_made_legal(uri, tracker, key, kept):
    run = started(tracker)
    tracker.send([Entry("train", 1, 1, {key: 1.5})])
    assert stored(uri, run).data.metrics == {kept: 1.5}


def test_long_names_stay_apart(uri, tracker):
    run = started(tracker, {"p" * 300: "1"}, {"t" * 300: "2"})
    tracker.send([Entry("train", 1, 1, {"m" * 300: 1.0, "m" * 301: 2.0})])
    metrics = stored(uri, run).data.metrics
    assert sorted(metrics.values()) == [1.0, 2.0]
    assert {len(name) for name in metrics} == {250}


def test_the_same_params_and_tags_may_be_sent_again(uri, tracker):
    run = started(tracker, {"seed": "7"}, {"git.commit": "abc"})
    tracker.end("KILLED")
    resumed = MLflowTracker(uri, "metafleet")
    assert started(resumed, {"seed": "7", "net.width": "40"}, {"git.commit": "def"}, run) == run
    found = stored(uri, run)
    assert found.info.status == "RUNNING"
    assert found.data.params == {"seed": "7", "net.width": "40"}
    assert found.data.tags["git.commit"] == "def"
    assert not [tag for tag in found.data.tags if tag.startswith("resume")]
    assert runs(uri) == 1


@pytest.mark.fault("F16")
def test_a_param_that_changed_becomes_a_tag_with_its_latest_value(uri):
    run = started(MLflowTracker(uri, "metafleet"), {"steps": "100", "seed": "7"})
    for steps in ("200", "300", "100"):
        started(MLflowTracker(uri, "metafleet"), {"steps": steps, "seed": "7"}, run=run)
        found = stored(uri, run)
        assert found.data.params == {"steps": "100", "seed": "7"}
        assert found.data.tags["resume.steps"] == steps
        assert "resume.seed" not in found.data.tags


def test_a_resumed_run_keeps_the_name_a_person_gave_it(uri, tracker):
    run = started(tracker)
    MlflowClient(tracking_uri=uri).update_run(run, name="the good one")
    MLflowTracker(uri, "metafleet").start(run, "a name", {}, {})
    assert stored(uri, run).info.run_name == "the good one"


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_a_deleted_run_is_followed_by_a_new_one(uri, tracker, gone):
    run = started(tracker, {"seed": "7"})
    if gone == "deleted":
        MlflowClient(tracking_uri=uri).delete_run(run)
    else:
        run = "0" * 32
    new = started(MLflowTracker(uri, "metafleet"), {"seed": "7"}, run=run)
    assert new != run
    assert stored(uri, new).data.tags["resumed_from"] == run


def test_writing_to_a_run_that_was_deleted_says_so(uri, tracker):
    run = started(tracker)
    MlflowClient(tracking_uri=uri).delete_run(run)
    with pytest.raises(PipelineError, match=f"MLflow at sqlite.*{run}"):
        tracker.send([Entry("train", 1, 1, {"x": 1.0})])


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_end_is_recorded_with_its_time_and_may_come_twice(uri, tracker, status):
    run = started(tracker)
    tracker.end(status)
    tracker.end(status)
    info = stored(uri, run).info
    assert info.status == status
    assert info.end_time >= info.start_time


def test_another_process_ends_the_run_of_one_that_died(uri, tracker):
    run = started(tracker, {"seed": "7"}, {"git.commit": "abc"})
    driver = MLflowTracker(uri, "metafleet")
    driver.start(run, "", {}, {})
    driver.end("KILLED")
    assert (stored(uri, run).info.status, stored(uri, run).info.run_name) == ("KILLED", "a name")


@pytest.mark.parametrize("run", [None, "0" * 32])
def test_a_start_that_failed_half_way_leaves_one_run(uri, tracker, monkeypatch, run):
    """The process may have been killed meanwhile: another one tries again."""

    def closed(*_args, **_kwargs):
        raise OSError("disk full")

    tags = {RUN_KEY: "a" * 32}
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", closed)
        with pytest.raises(PipelineError, match="disk full"):
            started(tracker, {"seed": "7"}, tags, run=run)
    run = started(MLflowTracker(uri, "metafleet"), {"seed": "7"}, tags, run=run)
    assert stored(uri, run).data.params == {"seed": "7"}
    assert runs(uri) == 1
    assert started(tracker, {"seed": "8"}, {RUN_KEY: "b" * 32}) != run


@pytest.mark.parametrize("folder", ["plain", "a b#c%20d é@"])
def test_artifacts_lie_beside_the_database_whatever_the_working_folder(migrated, tmp_path, folder, monkeypatch):
    (home := tmp_path / folder).mkdir()
    shutil.copy(migrated, home / "mlflow.db")
    monkeypatch.chdir(home)
    uri = absolute("sqlite:///mlflow.db")
    tracker = MLflowTracker(uri, "metafleet")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    run = started(tracker)
    source = elsewhere / "recipe.yaml"
    for text in ("seed: 6\n", "seed: 7\n"):
        source.write_text(text)
        tracker.artifact(source)
    tracker.artifact(source, "checkpoints")
    assert os.listdir(elsewhere) == ["recipe.yaml"]
    assert [item.path for item in MlflowClient(tracking_uri=uri).list_artifacts(run)] == ["checkpoints", "recipe.yaml"]
    kept = sorted(path for path in (home / "mlartifacts").rglob("*") if path.is_file())
    assert [path.read_text() for path in kept] == ["seed: 7\n", "seed: 7\n"]
    with pytest.raises(PipelineError, match="gone.yaml"):
        tracker.artifact(elsewhere / "gone.yaml")


def test_a_relative_database_is_fixed_where_the_tracker_is_made(migrated, tmp_path, monkeypatch):
    shutil.copy(migrated, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    tracker = MLflowTracker("sqlite:///mlflow.db", "metafleet")
    monkeypatch.chdir("/")
    run = started(tracker)
    place = stored(f"sqlite:///{tmp_path}/mlflow.db", run).info.artifact_uri
    assert place.startswith(f"file://{tmp_path}/mlartifacts/")


def in_a_process_of_its_own(uri, barrier, ids):
    tracker = MLflowTracker(uri, "raced")
    barrier.wait()
    ids.put(started(tracker))


def test_runs_that_start_at_once_share_a_new_database_and_a_new_experiment(tmp_path):
    uri, together = f"sqlite:///{tmp_path}/new.db", multiprocessing.get_context("fork")
    barrier, ids = together.Barrier(3), together.Queue()
    processes = [together.Process(target=in_a_process_of_its_own, args=(uri, barrier, ids)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    found = {ids.get(timeout=5) for _ in processes}
    assert len(found) == 3
    assert len({stored(uri, run).info.experiment_id for run in found}) == 1


def test_a_folder_that_is_gone_is_said_at_once(tmp_path):
    tracker = MLflowTracker(f"sqlite:///{tmp_path}/gone/mlflow.db", "metafleet")
    with pytest.raises(ConfigError, match=f"folder {tmp_path}/gone does not exist"):
        started(tracker)


def test_a_deleted_experiment_is_named_with_the_way_back(uri, tracker):
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.create_experiment("metafleet"))
    for look in (lambda: started(tracker), lambda: probe(uri, "metafleet")):
        with pytest.raises(ConfigError, match=r"'metafleet'.*mlflow experiments restore --experiment-id 1"):
            look()


def test_use_before_start_is_a_bug_of_ours(tracker):
    with pytest.raises(InternalError, match="before start"):
        tracker.send([Entry("train", 1, 1, {"x": 1.0})])


def test_how_to_open_a_local_run(uri, tracker, tmp_path, monkeypatch):
    run = started(tracker)
    monkeypatch.chdir(tmp_path)
    command, link = how_to_open("sqlite:///mlflow.db", run)
    assert command == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert link == f"http://127.0.0.1:5000/#/experiments/1/runs/{run}/model-metrics?workflowType=machine_learning"


def test_how_to_open_what_mlflow_does_not_know(uri, tmp_path):
    runs_page = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
    assert how_to_open(uri, "0" * 32)[1] == runs_page
    assert how_to_open(uri)[1] == runs_page
    command, link = how_to_open(f"sqlite:///{tmp_path}/my runs/new.db", "0" * 32)
    assert command == f"mlflow ui --backend-store-uri 'sqlite:///{tmp_path}/my runs/new.db'"
    assert link == runs_page
    assert not (tmp_path / "my runs").exists()
