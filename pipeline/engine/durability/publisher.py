"""Sends the journal to the tracker from its own thread, so that the outer loop never waits for a server.

Entries of kind ``train`` are means over ``log_every`` steps, and a finished run has no step left out; other entries are
sent unchanged.
The windows do not depend on when a run was interrupted: a resumed run has the curve of an undisturbed one. What the
tracker could not take stays in the journal, and ``journal.sent`` says where to continue. An entry is durable before it
is sent, and depends on the journal alone: sending everything again changes nothing in the tracker.
"""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pipeline.core.failures import StorageError
from pipeline.core.redact import redact
from pipeline.engine.durability.journal import STATUSES, Journal
from pipeline.engine.durability.served import served_files
from pipeline.engine.interfaces import RUN_KEY, Entry, Status, Tracker
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_word

BATCH = 1000
"""How many entries are read and sent at a time: after a long outage of the tracker there are many."""
PERIOD_S = 1.0
BACKOFF_S = (1.0, 60.0)
CLOSE_S = 60.0
KILLED_S = 0.5


class TrackedRun(NamedTuple):
    """What is sent to the tracker once: the run's name, parameters and tags."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]


class Publisher:
    """Owns the tracker: it alone creates, writes and ends the tracked run.

    ``served`` names the run's files that are logged with its last theta as a model; with none no model is logged.
    """

    def __init__(
        self,
        tracker: Tracker,
        journal: Journal,
        run: TrackedRun,
        storage: Storage,
        log_every: int,
        served: Sequence[str] = (),
    ) -> None:
        self.tracker, self.journal, self.run, self.storage, self.log_every = tracker, journal, run, storage, log_every
        self.served = served
        self.last_error: str | None = None
        self._started = False
        self._known = False
        self._end: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="publisher", daemon=True)

    def start(self, tags: Mapping[str, str]) -> None:
        """Begin to send. ``tags`` are those known only after the start."""
        self.run.tags.update(tags)
        self._thread.start()

    def close(self, status: Status, artifacts: Sequence[str], tags: Mapping[str, str]) -> str | None:
        """Send the rest within ``CLOSE_S``. Returns the problem if something could not be sent.

        A killed run has ``KILLED_S`` and uploads no file.
        """
        killed = status == "KILLED"
        self._end = lambda: self.send_end(status, () if killed else artifacts, tags)
        return self._finish(KILLED_S if killed else CLOSE_S)

    def abandon(self) -> str | None:
        """Stop within ``CLOSE_S`` and leave the tracked run unchanged."""
        return self._finish(CLOSE_S)

    def _finish(self, limit: float) -> str | None:
        if self._thread.ident is None:  # the run was refused before it began
            return None
        self._stop.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            return f"the tracker did not answer for {limit:g} s"
        return self.last_error

    def send(self) -> None:
        """Send the entries that the tracker does not have. A deleted run is followed by a new one."""
        self.journal.sync()
        if not self._started:
            self._start()
        sent, most = self.journal.position(self.storage.read("journal.sent")), BATCH
        while True:
            entries = self.journal.since(sent, most)
            batch, consumed = windows(entries, self.log_every)
            if batch:
                self.storage.check()  # the tracked run belongs to the process that took the run over
                try:
                    self.tracker.send(batch)
                except Exception:
                    self._started = False  # perhaps somebody deleted the run: look at the next attempt
                    raise
            if consumed:
                sent, most = sent + consumed, BATCH
                self.storage.write("journal.sent", self.journal.mark(sent))
            elif len(entries) < most:
                return
            else:  # one window has more entries than that: each step may have several
                most *= 2

    def send_end(self, status: Status, artifacts: Sequence[str], tags: Mapping[str, str]) -> None:
        """Send the remaining entries and the end of the tracked run.

        Raises:
            FencedError: another process has taken over the run; the tracked run is as it was.
        """
        if status == "KILLED" and self._started:  # there may be time for this alone
            self._end_tracked(status)
        try:
            self.send()
            self.storage.check()
        except StorageError:  # the tracked run ends although the run's folder cannot be written
            if self._known:
                self._end_tracked(status)
            raise
        self.tracker.tag(tags)
        with TemporaryDirectory() as folder:
            for name in artifacts:
                data = self.storage.read(name)
                if data is not None:
                    (copy := Path(folder, Path(name).name)).write_bytes(data)
                    self.tracker.artifact(copy, "" if "/" not in name else name.rpartition("/")[0])
        try:
            if status == "FINISHED" and self.served:
                self.tracker.model(self.run.name, served_files(self.storage, self.served), tags)
        finally:  # a run without its model has finished too
            self._end_tracked(status)

    def _end_tracked(self, status: Status) -> None:
        with suppress(StorageError):  # a folder that is gone was taken over by nobody
            self.storage.check()
        self.tracker.end(status)

    def _loop(self) -> None:
        wait = PERIOD_S
        while not self._stop.wait(wait):
            sent = self._attempt(self.send)
            wait = PERIOD_S if sent else min(max(wait * 2, BACKOFF_S[0]), BACKOFF_S[1])
        self._attempt(self._end)

    def _attempt(self, sending: Callable[[], None]) -> bool:
        try:
            sending()
        except Exception as error:  # noqa: BLE001  (whatever a tracker raises, training goes on; the journal keeps it)
            self.last_error = redact(" ".join(str(error).split())) or type(error).__name__
            return False
        self.last_error = None
        return True

    def _start(self) -> None:
        self.storage.check()
        key = read_word(self.storage, "tracked_key")
        if key is None:
            # It is on disk before the tracked run exists, so that a process that was interrupted in between finds the
            # run again.
            key = uuid.uuid4().hex
            self.storage.write("tracked_key", key.encode())
        before = read_word(self.storage, "tracked_run")
        run = self.tracker.start(before, self.run.name, self.run.params, {RUN_KEY: key, **self.run.tags})
        self._known = True
        if run != before:
            self.storage.remove("journal.sent")  # a new run has seen nothing yet
            self.storage.write("tracked_run", run.encode())
        self._started = True


def windows(entries: Sequence[Entry], log_every: int) -> tuple[list[Entry], int]:
    """The entries to send now, and how many journal entries they cover.

    A window ends at a multiple of ``log_every``, never where a run was interrupted. The end of a finished run shows the
    open window too, and leaves it open: the run may be given more steps.
    """
    ready: list[Entry] = []
    window: list[Entry] = []
    consumed = 0
    for position, entry in enumerate(entries, 1):
        if entry.kind == "train":
            window.append(entry)
        elif entry.kind not in STATUSES:
            ready.append(entry)
        whole = bool(window) and window[-1].step % log_every == 0
        if whole or (window and entry.kind == "FINISHED"):
            ready.append(_mean(window))
        if whole:
            window = []
        if not window:
            consumed = position
    # What came in while a window was open is sent again with that window: trackers store an entry once.
    return ready, consumed


def _mean(window: Sequence[Entry]) -> Entry:
    names = sorted({name for entry in window for name in entry.metrics})
    means = {}
    for name in names:
        values = [entry.metrics[name] for entry in window if name in entry.metrics]
        means[name] = math.fsum(values) / len(values)
    return Entry("train", window[-1].step, window[-1].timestamp, means)
