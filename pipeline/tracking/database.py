"""MLflow's SQLite database: created whole or not at all, and examined before a run relies on it."""

from __future__ import annotations

import fcntl
import functools
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from glob import escape
from pathlib import Path
from typing import NamedTuple

import mlflow

from pipeline.core.failures import ConfigError
from pipeline.tracking.uri import database, shown, uri_of

MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations"
"""MLflow's own steps from one layout of its tables to the next."""
BUSY_S = 2.0
"""Seconds that another process may hold the database before it is used unexamined."""
FOREIGN = "holds tables of another program and none of MLflow's"
HALF_MADE = "is half made: MLflow was interrupted while it created the tables, and no run is in it"
NEWER = "was laid out by a newer MLflow than the installed one"
OLDER = "has an out-of-date schema: it was laid out by an older MLflow"


class Found(NamedTuple):
    """What a database holds: its tables, the revision of their layout, and experiments as name -> (id, stage)."""

    tables: set[str]
    revision: str | None
    experiments: dict[str, tuple[str, str]]


def create(path: Path) -> None:
    """Create MLflow's database where there is none.

    MLflow creates its tables one by one. The database is therefore created under another name and renamed when it is
    whole, so that a process that is killed meanwhile leaves nothing at ``path``. One process creates at a time.

    Raises:
        OSError: the folder cannot be written.
    """
    with _locked(path.parent) as folder:
        if not is_new(path):
            return
        for left in path.parent.glob(f".{escape(path.name)}.*.new*"):  # of processes that were killed meanwhile
            left.unlink(missing_ok=True)
        # Each attempt has a name of its own: MLflow keeps a connection to each name it was given.
        beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
        try:
            _lay_out(beside)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        os.fsync(folder)


def is_new(path: Path) -> bool:
    """Whether MLflow would begin a database there: there is no file, or an empty one."""
    return not path.exists() or path.stat().st_size == 0


def check_tables(uri: str) -> dict[str, tuple[str, str]]:
    """Check that the database of a SQLite URI is whole and fits the installed MLflow. Returns its experiments.

    A missing database is fine: it is created when the run starts.

    Raises:
        ConfigError: names the database, what is wrong with it and the fix.
    """
    path, given = database(uri), shown(uri)
    if is_new(path):
        return {}
    found = _read(path, given)
    if found is None or found.revision in _revisions()[:1]:
        return {} if found is None else found.experiments
    another = "name another one with tracking.uri=sqlite:///PATH"
    if found.tables and not found.tables & {"alembic_version", "experiments", "runs"}:
        raise ConfigError(f"{given}: {path} {FOREIGN}; {another}")
    if not found.experiments:  # MLflow adds the first one when all tables are there
        raise ConfigError(f"{given}: {path} {HALF_MADE}; remove it with rm {path}, and the next run creates it")
    if found.revision is not None and found.revision not in _revisions():
        raise ConfigError(f"{given}: {path} {NEWER} ({mlflow.__version__}); pip install -U mlflow, or {another}")
    raise ConfigError(
        f"{given}: {path} {OLDER} than {mlflow.__version__}; copy it, then run"
        f" mlflow db upgrade {uri_of(path)}, or {another}"
    )


def _lay_out(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri_of(path), (path.parent / "mlartifacts").as_uri())
    store.engine.dispose()  # no connection may stay open while the file gets its name


def _read(path: Path, given: str) -> Found | None:
    """The content, or None where another process holds the database too long."""
    try:
        # Not read-only: the first connection after a crash rolls back the unfinished transaction.
        with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            row = None
            if "alembic_version" in tables:
                row = connection.execute("select version_num from alembic_version").fetchone()
            experiments = {}
            if "experiments" in tables:
                rows = connection.execute("select name, experiment_id, lifecycle_stage from experiments")
                experiments = {name: (str(number), stage) for name, number, stage in rows}
            return Found(tables, row[0] if row else None, experiments)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return None
        raise ConfigError(f"{given}: {path} cannot be read ({error}); restore it, or name another path") from None


@functools.cache
def _revisions() -> tuple[str, ...]:
    """The layouts that the installed MLflow knows, its own first. It reads 70 files, which takes half a second."""
    from alembic.script import ScriptDirectory  # imported late: it is slow, and a server does not need it

    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
