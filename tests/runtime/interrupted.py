"""A training in a process of its own that is asked to end, and what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.storage.local import Local

START_S = 120.0
END_S = 2.0
"""The promise: from the signal to the end of the process."""
ORPHANS_S = 20.0
"""Processes of Ray that lost the others see so within ten seconds."""


SINUSOIDS = (
    *("sinusoid_maml", "tasks_per_step=8", "chunk_size=4"),
    *("tracking.log_every=1", "tracking.report=false"),
)


class Left(NamedTuple):
    """How a process ended, in how many seconds, and what of its run is on disk and in MLflow."""

    code: int
    seconds: float
    orphans: list[str]
    journal: int
    checkpoint: int
    status: str
    err: str


class Training:
    """``python -m jobs.train`` in ``folder``, in a session of its own so that signals can go to the whole group."""

    def __init__(self, folder: Path, database: Path | None, *arguments: str, recipe: Sequence[str] = SINUSOIDS) -> None:
        self.folder, self.run = folder, folder / "run"
        if database is not None:
            shutil.copy(database, folder / "mlflow.db")
        command = [sys.executable, "-m", "jobs.train", *recipe]
        self.process = subprocess.Popen(
            [*command, *arguments, "--output", "run"],
            cwd=folder,
            stdout=(folder / "out").open("w"),
            stderr=(folder / "err").open("w"),
            start_new_session=True,
        )

    def wait_for(self, text: str) -> None:
        """Until ``text`` is printed."""
        self._until(lambda: text in (self.folder / "out").read_text())

    def wait_for_tracker(self) -> None:
        """Until MLflow has the run and its first metrics."""
        self._until((self.run / "journal.sent").exists)

    def wait_for_child(self, name: str) -> None:
        """Until this process has started one of that name."""
        self._until(lambda: name in [one.name() for one in psutil.Process(self.process.pid).children()])

    def _until(self, condition) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert self.process.poll() is None, (self.folder / "err").read_text()
            assert time.monotonic() < deadline, (self.folder / "out").read_text()
            time.sleep(0.02)

    def end(self, number: signal.Signals, *, group: bool = False) -> Left:
        """Send the signal, as ``kill`` or as a terminal does, and wait."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        began = time.monotonic()
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(30)
        seconds = time.monotonic() - began
        _, alive = psutil.wait_procs([*children, *self._session()], timeout=ORPHANS_S)
        journal = self.run / "journal.jsonl"
        entries = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        steps = [entry["step"] for entry in entries if entry["kind"] == "train"]
        checkpoint, warnings = Checkpoints(Local(self.run), 1).newest()
        assert not warnings
        return Left(
            code,
            seconds,
            [str(one) for one in alive if one.status() != psutil.STATUS_ZOMBIE],
            max(steps, default=0),
            checkpoint.step if checkpoint else 0,
            status(self.folder / "mlflow.db"),
            (self.folder / "err").read_text(),
        )

    def _session(self) -> list[psutil.Process]:
        """Who was started by those that this process started, even where those are gone."""
        return [one for one in psutil.process_iter() if one.pid != os.getpid() and _session_of(one) == self.process.pid]

    def kill(self) -> None:
        """Whatever became of the test."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def status(database: Path) -> str:
    """What MLflow shows of the newest run in a database."""
    if not database.exists():
        return "none"
    with sqlite3.connect(database) as connection:
        row = connection.execute("select status from runs order by start_time desc, rowid desc limit 1").fetchone()
    return row[0] if row else "none"
