"""MLflow's database: a process that is killed while it is created leaves nothing that stands in a later run's way."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy
from mlflow.tracking import MlflowClient

from pipeline.core.failures import ConfigError
from pipeline.tracking import database
from pipeline.tracking.mlflow_tracker import MLflowTracker, probe
from pipeline.tracking.uri import uri_of

FORK = multiprocessing.get_context("fork")


def tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def change(path, *lines):
    with closing(sqlite3.connect(path)) as connection:
        for line in lines:
            connection.execute(line)
        connection.commit()


def interrupt_at(number, when):
    """This process kills itself at SQL statement ``number``, or just before the database gets its name."""
    count = 0

    def counted(*_):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if when == "statement":
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", counted)
    else:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def start_and_be_killed(uri, number, when):
    interrupt_at(number, when)
    MLflowTracker(uri, "metafleet").start(None, "a run", {}, {})


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(5, "statement", marks=pytest.mark.slow),
        pytest.param(200, "statement", marks=pytest.mark.slow),
        (0, "rename"),
    ],
)
def test_a_first_start_that_is_killed_while_the_tables_are_created(tmp_path, number, when):
    path = tmp_path / "my [runs]" / "mlflow.db"
    path.parent.mkdir()
    first = FORK.Process(target=start_and_be_killed, args=(uri_of(path), number, when))
    first.start()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert list(path.parent.iterdir()), "it was killed before it had begun"
    probe(uri_of(path), "metafleet")
    run = MLflowTracker(uri_of(path), "metafleet").start(None, "a run", {}, {})
    assert MlflowClient(tracking_uri=uri_of(path)).get_run(run).info.status == "RUNNING"
    assert [one.name for one in path.parent.iterdir()] == ["mlflow.db"]


def lay_out_in_place(path, number):
    """As MLflow does it by itself."""
    interrupt_at(number, "statement")
    MlflowClient(tracking_uri=uri_of(path)).search_experiments()


@pytest.mark.parametrize("number", [60, 300])
def test_a_database_that_was_left_half_made_is_named_with_the_fix(tmp_path, number):
    path = tmp_path / "mlflow.db"
    process = FORK.Process(target=lay_out_in_place, args=(path, number))
    process.start()
    process.join(60)
    with pytest.raises(ConfigError, match=f"half made.*; remove it with rm {path}, and the next run creates it"):
        probe(uri_of(path), "metafleet")
    path.unlink()
    probe(uri_of(path), "metafleet")


def test_an_empty_file_is_filled(tmp_path):
    path = tmp_path / "mlflow.db"
    path.touch()
    database.create(path)
    probe(uri_of(path), "metafleet")
    assert "runs" in tables(path)


def test_a_database_that_is_there_is_left(migrated_mlflow, tmp_path):
    path = shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    before = path.read_bytes()
    database.create(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["update alembic_version set version_num = '451aebb31d03'"], "older MLflow.*; copy it, then run mlflow db up"),
        (["drop table alembic_version"], "older MLflow"),
        (["update alembic_version set version_num = 'ffffffffffff'"], "newer MLflow.*; pip install -U mlflow"),
    ],
)
def test_a_schema_of_another_mlflow_is_named_with_the_fix(migrated_mlflow, tmp_path, lines, message):
    path = shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    change(path, *lines)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message) as raised:
        probe(uri_of(path), "metafleet")
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before, "only the user may change it"


def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "notes.db"
    change(path, "create table notes (text)")
    with pytest.raises(ConfigError, match="tables of another program.*; name another one with tracking.uri"):
        probe(uri_of(path), "metafleet")


def test_a_damaged_database_is_refused(migrated_mlflow, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(migrated_mlflow.read_bytes()[:100] + b"\xff" * 8000)
    with pytest.raises(ConfigError, match=f"{path} cannot be read.*; restore it, or name another path"):
        probe(uri_of(path), "metafleet")


def test_a_database_that_is_busy_is_not_refused(migrated_mlflow, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_S", 0.0)
    path = shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("begin exclusive")
        probe(uri_of(path), "metafleet")
