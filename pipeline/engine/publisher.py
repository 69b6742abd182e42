"""Sends the journal to the tracker from a thread of its own: the outer loop never waits for a server.

Entries of kind ``train`` are means over ``log_every`` steps, none left unseen; others go as they are. Whatever the
tracker could not take stays in the journal, and ``sent`` says from where to go on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.engine.journal import Journal
from pipeline.engine.protocols import Entry, Status, Tracker
from pipeline.storage.local import write_whole

PERIOD_S = 1.0
BACKOFF_S = (1.0, 60.0)
CLOSE_S = 60.0
KILLED_S = 0.5


class Run(NamedTuple):
    """What the tracker is told once."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]


class Publisher:
    """Owns the tracker: nobody else creates, writes or ends the tracked run."""

    def __init__(self, tracker: Tracker, journal: Journal, run: Run, folder: Path, log_every: int) -> None:
        self.tracker, self.journal, self.run, self.folder, self.log_every = tracker, journal, run, folder, log_every
        self.run_id = _read(folder / "tracked_run")
        self.last_error: str | None = None
        self._started = False
        self._end: Callable[[], None] = lambda: None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="publisher", daemon=True)

    def start(self, tags: Mapping[str, str]) -> None:
        """Begin to send; ``tags`` are those that only a started run knows."""
        self.run.tags.update(tags)
        self._thread.start()

    def close(self, status: Status, artifacts: Sequence[Path], tags: Mapping[str, str]) -> str | None:
        """Send the rest, within ``CLOSE_S``; returns what is wrong if something could not be sent.

        A killed run has ``KILLED_S``, and uploads nothing.
        """
        if self._thread.ident is None:  # the run was refused before it began
            return None
        killed = status == "KILLED"
        limit = KILLED_S if killed else CLOSE_S
        self._end = lambda: self._send_end(status, () if killed else artifacts, tags)
        self._stop.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            return f"the tracker did not answer for {limit:g} s"
        return self.last_error

    def _loop(self) -> None:
        wait = PERIOD_S
        while not self._stop.wait(wait):
            sent = self._attempt(lambda: self._send(final=False))
            wait = PERIOD_S if sent else min(max(wait * 2, BACKOFF_S[0]), BACKOFF_S[1])
        self._attempt(self._end)

    def _attempt(self, sending: Callable[[], None]) -> bool:
        try:
            sending()
        except Exception as error:  # noqa: BLE001  (whatever a tracker raises, training goes on; the journal keeps it)
            self.last_error = " ".join(str(error).split()) or type(error).__name__
            return False
        self.last_error = None
        return True

    def _send_end(self, status: Status, artifacts: Sequence[Path], tags: Mapping[str, str]) -> None:
        if status == "KILLED" and self._started:  # there may be no time for more than this
            self.tracker.end(status)
        self._send(final=True)
        self.tracker.tag(tags)
        for path in artifacts:
            self.tracker.artifact(path, "checkpoints" if path.suffix == ".safetensors" else "")
        self.tracker.end(status)

    def _send(self, *, final: bool) -> None:
        if not self._started:
            run_id = self.tracker.start(self.run_id, *self.run)
            if (
                run_id != self.run_id
            ):  # a new run, perhaps because somebody deleted the old one: it has seen nothing yet
                (self.folder / "journal.sent").unlink(missing_ok=True)
            self.run_id = run_id
            write_whole(self.folder / "tracked_run", lambda file: file.write(run_id.encode()))
            self._started = True
        sent = int(_read(self.folder / "journal.sent") or 0)
        entries = self.journal.entries[sent:]
        batch, consumed = windows(entries, self.log_every, final=final)
        if batch:
            self.tracker.send(batch)
            (self.folder / "journal.sent").write_text(str(sent + consumed))


def windows(entries: Sequence[Entry], log_every: int, *, final: bool) -> tuple[list[Entry], int]:
    """What to send now, and how many of the entries it stands for; an unfinished window waits unless it is the last."""
    ready: list[Entry] = []
    window: list[Entry] = []
    consumed = 0
    for position, entry in enumerate(entries, 1):
        if entry.kind == "train":
            window.append(entry)
            if entry.step % log_every == 0:
                ready.append(_mean(window))
                window = []
        else:
            ready.append(entry)
        if not window:
            consumed = position
    if window and final:
        return [*ready, _mean(window)], len(entries)
    # What came in while a window was open is sent again with that window: trackers store an entry once.
    return ready, consumed


def _mean(window: Sequence[Entry]) -> Entry:
    names = sorted({name for entry in window for name in entry.metrics})
    means = {}
    for name in names:
        values = [entry.metrics[name] for entry in window if name in entry.metrics]
        means[name] = math.fsum(values) / len(values)
    return Entry("train", window[-1].step, window[-1].timestamp, means)


def _read(path: Path) -> str | None:
    return path.read_text().strip() or None if path.exists() else None
