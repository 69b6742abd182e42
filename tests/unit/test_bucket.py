"""Runs in object stores: pyarrow's local and mock file systems, and a real S3 server where moto is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem, S3FileSystem

from pipeline.core.failures import ConfigError, FencedError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.engine.durability.journal import Journal
from pipeline.runs.run import RunOptions, evaluate_run, train_run
from pipeline.runs.run_folder import load_learner
from pipeline.runs.sync import sync_run
from pipeline.storage import storage_at
from pipeline.storage.bucket import Bucket
from pipeline.storage.local import Local
from tests.quiet_runs import Onlooker, run
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS = 4


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """The address of an S3 server of this session."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("to test against a real S3 server: pip install moto[server]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file,
            stderr=file,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail(f"the S3 server did not come up: {log.read_text()[-2000:]}")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(params=["file", "mock", "s3"])
def uri(request, tmp_path, monkeypatch) -> str:
    """Where a run may be kept."""
    if request.param == "file":
        return (tmp_path / "bucket" / "run").as_uri()
    if request.param == "mock":
        # Each of pyarrow's mock file systems is a new one; a store is the same for all.
        mock, path = FileSystem.from_uri("mock://bucket/run")
        monkeypatch.setattr("pipeline.storage.bucket.FileSystem", Only(mock, path))
        return "memory://bucket/run"
    address = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket = f"bucket-{tmp_path.name.replace('_', '-').lower()}"[-60:]
    S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True).create_dir(bucket)
    return f"s3://{bucket}/run?endpoint_override={address}&scheme=http&region=us-east-1"


class Only:
    """One file system, whatever URI is asked for."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.from_uri: Callable[[str], tuple[FileSystem, str]] = lambda uri: (files, path)


def claimed(uri: str) -> Bucket:
    bucket = Bucket(uri)
    bucket.lock()
    bucket.claim()
    return bucket


def test_what_is_written_is_read(uri):
    bucket = claimed(uri)
    assert bucket.names("") == bucket.names("checkpoints") == []
    assert bucket.read("checkpoints/one") is None
    for data in (b"", b"first", b"second" * 100_000):
        bucket.write("checkpoints/one", data)
        assert Bucket(uri).read("checkpoints/one") == data
    bucket.write("best", b"theta")
    assert (bucket.names("checkpoints"), bucket.names("")) == (["one"], ["best"])
    assert len(bucket.names("data/checkpoints")) == 1, "what was replaced is still there"
    bucket.remove("checkpoints/one")
    bucket.remove("checkpoints/one")
    assert bucket.names("checkpoints") == bucket.names("data/checkpoints") == []


def test_data_without_its_commit_is_not_there(uri, monkeypatch):
    """The process died between the two."""
    bucket = claimed(uri)
    bucket.write("one", b"first")
    put = bucket._put

    def dies(name: str, data: bytes) -> None:
        if name == "one":
            raise KeyboardInterrupt
        put(name, data)

    monkeypatch.setattr(bucket, "_put", dies)
    with pytest.raises(KeyboardInterrupt):
        bucket.write("one", b"second")
    assert Bucket(uri).read("one") == b"first"


def test_damaged_data_is_named(uri):
    bucket = claimed(uri)
    bucket.write("one", b"first")
    (name,) = bucket.names("data")
    bucket._put(f"data/{name}", b"worse")
    with pytest.raises(StorageError, match=r"run.*/one: its data data/one\.\w+ is missing or damaged"):
        bucket.read("one")


def test_of_two_writers_the_newer_one_stays(uri):
    zombie = claimed(uri)
    zombie.write("one", b"first")
    log = zombie.log("journal.jsonl")
    log.append("line\n")
    owner = claimed(uri)
    owner.write("one", b"second")
    for write in (lambda: zombie.write("one", b"late"), lambda: zombie.remove("one"), log.sync):
        with pytest.raises(FencedError, match="taken over by process"):
            write()
    assert owner.read("one") == b"second"


def test_two_that_begin_the_same_epoch_agree_on_who_stays(uri):
    one, other = Bucket(uri), Bucket(uri)
    for bucket, key in ((one, "a" * 32), (other, "b" * 32)):
        bucket.epoch = (1, key)
        bucket._put(f"epochs/00000001-{key}", b"process")
    one.check()
    with pytest.raises(FencedError):
        other.check()


def test_a_log_is_its_segments_in_order(uri, monkeypatch):
    monkeypatch.setattr("pipeline.storage.bucket.SEGMENT_LINES", 3)
    lines = [f"line {number}\n" for number in range(10)]
    for part in (lines[:1], lines[1:5], lines[5:]):  # a process each
        log = claimed(uri).log("journal.jsonl")
        for line in part:
            log.append(line)
            if line == lines[6]:
                log.sync()
        log.sync()
        log.close()
    assert [f"{line}\n" for line in Bucket(uri).log("journal.jsonl").lines()] == lines


def tiny(**tracking: Any) -> Any:
    return recipe("maml", Path(), STEPS, tracking={"log_every": 2, **tracking}, checkpoint={"every": 2, "keep": 2})


def test_a_run_that_dies_and_is_resumed_ends_as_on_a_disk(uri, tmp_path, monkeypatch):
    straight = run(tiny(), tmp_path / "disk", 0)

    def dies(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as dead:
        dead.setattr("pipeline.engine.durability.coordinator.Coordinator.close", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), uri, 0, after=dies)  # type: ignore[arg-type]
    resumed = run(tiny(), uri, 0)  # type: ignore[arg-type]
    assert (resumed.theta, resumed.began_after) == (straight.theta, 2)
    journals = []
    for storage in (storage_at(uri), Local(tmp_path / "disk")):
        journals.append(Journal(storage))
        journals[-1].load()
    assert [(one.kind, one.step) for one in journals[0].since(0)] == [
        (one.kind, one.step) for one in journals[1].since(0)
    ]
    assert Checkpoints(storage_at(uri), 1).steps() == [2, 4]


def test_a_run_from_end_to_end(uri, mlflow_uri):
    of = tiny(uri=mlflow_uri)
    ended = train_run(of, RunOptions("serial", output=uri), Onlooker())
    assert ended.unsent is None
    storage = storage_at(ended.folder)
    assert json.loads(storage.read("summary.json"))["theta_sha256"] == ended.summary["theta_sha256"]
    assert evaluate_run(uri, [], RunOptions("serial"))["theta_sha256"] == ended.summary["theta_sha256"]
    assert load_learner(uri, None).adapt([[0.5]], [[0.1]]).predict([[0.2]]).shape == (1, 1)
    assert sync_run(uri).status == "FINISHED"
    with pytest.raises(ConfigError, match="already holds a run"):
        train_run(of, RunOptions("serial", output=uri), Onlooker())


def test_a_store_that_cannot_be_written_is_told_before_anything_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output file:.*/file/run: cannot be written"):
        Bucket((tmp_path / "file" / "run").as_uri()).probe()


def test_looking_whether_it_can_be_written_leaves_nothing(uri):
    bucket = Bucket(uri)
    bucket.probe()
    assert bucket.names("") == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/run", "--output ftp://host/run: no place that can be written"),
        ("s3://key:secret@bucket/run", "--output: the URI holds a key or a password"),
    ],
)
def test_a_uri_that_cannot_be_used_is_named(uri, message):
    with pytest.raises(ConfigError) as raised:
        storage_at(uri)
    assert str(raised.value).startswith(message)
    assert "secret@" not in str(raised.value)
