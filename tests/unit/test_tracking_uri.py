"""Tracking URIs: what runs can be kept in, what is refused with which fix, and that no secret is ever said."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from sqlalchemy import make_url

from pipeline.config import Tracking, load
from pipeline.core.failures import ConfigError, PipelineError
from pipeline.core.redact import redact
from pipeline.runs.describe import describe
from pipeline.runs.paths import absolute as run_absolute
from pipeline.tracking.mlflow_tracker import MLflowTracker, how_to_open, probe
from pipeline.tracking.uri import absolute, check_database, database, run_url
from tests.mlflow_server import Answering, answering

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", r"'\./mlruns'.*no file store, write sqlite:///mlruns/mlflow\.db"),
        ("file:///data/mlruns", r"no file store, write sqlite:////data/mlruns/mlflow\.db"),
        ("", r"no file store, write sqlite:///mlflow\.db"),
        ("sqlite://", r"write sqlite:///mlflow\.db, or four slashes"),
        ("sqlite:///:memory:", r"write sqlite:///mlflow\.db, or four slashes"),
        ("mlflow.lab:5000", r"write http://mlflow\.lab:5000"),
        (
            f"postgresql://me:{SECRET}@db/mlflow?password={SECRET}",
            r"start mlflow server --backend-store-uri postgresql",
        ),
        ("sqlite:////no/such/folder/mlflow.db", r"folder /no/such/folder does not exist; create it with mkdir"),
        ("sqlite:////etc/passwd", r"/etc/passwd is not an SQLite database"),
        ("sqlite:////etc", r"/etc is a folder, expected a file; use sqlite:////etc/mlflow\.db"),
    ],
)
def test_a_uri_nothing_can_be_kept_in_is_refused_with_the_fix(uri, message):
    with pytest.raises(ConfigError, match=message) as raised:
        probe(uri)
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_database_that_is_there_or_could_be_passes(mlflow_uri, tmp_path):
    probe(mlflow_uri)
    probe(f"sqlite:///{tmp_path}/new.db?timeout=5")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="not writable"):
        probe(f"sqlite:///{tmp_path}/mlflow.db")


class Answer(Answering):
    """A server that answers every request as its own server object says."""

    def answer(self) -> tuple[int, str, bytes] | None:
        if self.server.says[0] == 0:
            self.server.released.wait(10)
            return None
        return self.server.says


@pytest.fixture
def server():
    with answering(Answer) as server:
        server.released = threading.Event()
        yield server
        server.released.set()


def address(server):
    return f"http://me:{SECRET}@127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, "text/html", b"<html>log in</html>"), "HTTP 200 and no MLflow API"),
        ((404, "application/json", b"{}"), "HTTP 404 and no MLflow API"),
        ((500, "text/plain", b"oops"), "HTTP 500 and no MLflow API"),
        ((401, "text/plain", b"who?"), "HTTP 401; set MLFLOW_TRACKING_USERNAME"),
        ((403, "text/plain", b"Invalid Host header"), "HTTP 403.*--allowed-hosts"),
        ((0, "", b""), "no answer in 3 s; start one with mlflow server"),
    ],
)
def test_what_is_no_tracking_server_is_refused_in_time_and_without_the_password(server, answer, message):
    server.says = answer
    with pytest.raises(ConfigError, match=message) as raised:
        probe(address(server))
    assert f"http://***@127.0.0.1:{server.server_port}" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_server_that_answers_passes(server):
    server.says = (200, "application/json", b'{"experiments": []}')
    probe(address(server) + "/")


@pytest.mark.parametrize(
    ("status", "body", "good"),
    [
        (200, b'{"experiment": {"experiment_id": "7", "lifecycle_stage": "active"}}', True),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none of that name"}', True),
        (200, b'{"experiment": {"experiment_id": "7", "lifecycle_stage": "deleted"}}', False),
    ],
)
def test_the_experiment_is_looked_up_at_a_server(server, status, body, good):
    server.says = (status, "application/json", body)
    if good:
        probe(address(server), "mine")
        return
    with pytest.raises(ConfigError, match=r"'mine' at .* was deleted; name another one.*--experiment-id 7") as raised:
        probe(address(server), "mine")
    assert SECRET not in str(raised.value)


def test_a_uri_that_is_mlflows_own_setting_is_named_as_such(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with pytest.raises(ConfigError, match=r"tracking\.uri 'databricks' \(from MLFLOW_TRACKING_URI\): expected"):
        probe("databricks")


def test_nobody_listening_is_said_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="no connection; start one with mlflow server"):
            probe(f"http://127.0.0.1:{unused.getsockname()[1]}")


def test_a_failed_call_does_not_repeat_the_password(server):
    server.says = (404, "text/html", b"<html>\n" + address(server).encode() + b"\n</html>")
    tracker = MLflowTracker(address(server), "metafleet")
    with pytest.raises(PipelineError, match=r"MLflow at http://\*\*\*@127") as raised:
        tracker.start(None, "a name", {}, {})
    text = "".join(f"{link!r}" for link in (raised.value, raised.value.__cause__))
    assert SECRET not in text
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pa@ss@host:1/x failed", "http://***@host:1/x failed"),
        ("(https://token@host)", "(https://***@host)"),
        ("postgresql://h/d?user=me&password=p&ssl=1", "postgresql://h/d?user=me&password=***&ssl=1"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("no uri, but me@host", "no uri, but me@host"),
        ("found 'http://me:pa ss@host:1/x' there", "found 'http://***@host:1/x' there"),
        ("found 'http://me:pa / ss@host' there", "found 'http://***@host' there"),
        ("http://to ken@host", "http://***@host"),
        ("tracking.uri 'me:pw@lab:5000': expected", "tracking.uri '***@lab:5000': expected"),
        ("tracking.uri=me:p@w/x@lab:5000", "tracking.uri=***@lab:5000"),
        ("//me:pw@lab", "//***@lab"),
        ("//token@lab/x", "//***@lab/x"),
        ("http:/me:pw@lab", "***@lab"),
        ("http://lab/?access_key=pw&x=1", "http://lab/?access_key=***&x=1"),
        ("http://lab/?auth=pw", "http://lab/?auth=***"),
        ("AWS_SECRET_ACCESS_KEY=pw", "AWS_SECRET_ACCESS_KEY=***"),
        ("?api-key=pw&X-Amz-Signature=pw&pass=pw", "?api-key=***&X-Amz-Signature=***&pass=***"),
        ("author=me step=3 net.hidden=[40]", "author=me step=3 net.hidden=[40]"),
        ("see https://arxiv.org/abs/1703.03400: accuracy@5", "see https://arxiv.org/abs/1703.03400: accuracy@5"),
    ],
)
def test_redaction(text, shown):
    assert redact(text) == shown


MALFORMED = [
    *("http://me:hunter2 hunter2@lab:5000", "http://me:hunter2@hunter2@lab", "http://me:hunter2/ hunter2@lab"),
    *("http://hunter2 hunter2@lab", "http://me:hunter2\nhunter2@lab", "http://me:hunter2/hunter2@lab"),
    *("http://me:12/hunter2@lab", "http://me:hunter2#@lab", "http://me:hunter2?@lab", "http://me:hunter2\\@lab"),
    *("me:hunter2@lab:5000", "//me:hunter2@lab", "http:/me:hunter2@lab", "postgresql://me:hunter2 hunter2@db/x"),
    *("http//me:hunter2@lab", "http://lab?password=a hunter2", "HTTP://me:hunter2@lab", "http://me:hunter2é@lab"),
]


@pytest.mark.parametrize("uri", MALFORMED)
def test_what_cannot_be_parsed_is_refused_and_no_part_of_its_password_is_said(uri):
    recipe = load("sinusoid_maml").model_copy(update={"tracking": Tracking(uri=uri)})
    assert SECRET not in describe(recipe, "sinusoid_maml")
    for look in (probe, absolute, lambda uri: MLflowTracker(uri, "metafleet"), lambda uri: run_absolute(recipe)):
        with pytest.raises(ConfigError) as raised:
            look(uri)
        assert SECRET not in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("override", [f"tracking=http://me:{times * SECRET}@lab" for times in (1, 300)])
def test_a_uri_in_the_wrong_place_is_no_leak(override):
    with pytest.raises(ConfigError, match="tracking: ") as raised:
        load("sinusoid_maml", [override])
    assert SECRET not in str(raised.value)


def test_an_encoded_password_passes_as_it_was_written():
    for uri in ("http://me:pa%20ss%40@lab:5000/mlflow", "https://[::1]:5000", "http://lab_1.example/a%2Fb/"):
        assert absolute(uri) == uri.rstrip("/")


def test_a_server_needs_no_command_and_its_link_no_password(server):
    server.says = (401, "text/plain", b"who?")
    command, link = how_to_open(address(server) + "/", "0" * 32)
    assert command == ""
    assert link == f"http://127.0.0.1:{server.server_port}/#/experiments?workflowType=machine_learning"
    assert run_url(f"https://me:{SECRET}@lab/mlflow/", "3", "abc") == (
        "https://lab/mlflow/#/experiments/3/runs/abc/model-metrics?workflowType=machine_learning"
    )


@pytest.mark.parametrize("name", ["wh?at", "100%", "a%3Fb", "a#b", "two words", "žluťoučký", "a?b=c&d"])
def test_a_database_in_a_folder_of_any_name_is_that_of_the_folder(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = absolute("sqlite:///mlflow.db")
    assert database(found) == folder / "mlflow.db"
    assert absolute(found) == found
    assert make_url(found).database == str(folder / "mlflow.db")
    check_database(found)
