"""The metrics journal: every metric once, on disk before it is published.

Each line is one JSON object with the key (kind, step). The first write wins, so a step that is computed again after a
crash is not logged twice. A kind such as ``evaluation/KEY`` says what was evaluated: another evaluation of the same
step is another entry. The journal is synced every few lines. Until then a checkpoint holds its entries, and ``absorb``
restores those that a crash lost. Closing a run adds its status as an entry.
"""

from __future__ import annotations

import json
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, get_args

from pipeline.core.failures import ResumeError
from pipeline.engine.interfaces import Entry, Status
from pipeline.storage.interface import Storage

NAME = "journal.jsonl"
STATUSES = get_args(Status)
KEPT = 1000
"""The entries kept in memory. A run of days has millions; older ones are read from the file when needed."""
_KIND = re.compile(r"[A-Za-z_]{1,64}(/[0-9a-f]{1,64})?")
_MARK = re.compile(
    r"(([1-9]\d{0,17}) ([A-Za-z_]{1,64}(?:/[0-9a-f]{1,64})?) (\d{1,19}) (\d{1,19})) ([0-9a-f]{8})", re.ASCII
)
_WHOLE = 1 << 63
"""Trackers keep steps and timestamps in 64 bits."""


class Journal:
    """An append-only log. The steps of a kind only grow. Two threads may use it."""

    def __init__(self, storage: Storage, kept: int = KEPT) -> None:
        self.where, self.kept, self._log = f"{storage.where}/{NAME}", kept, storage.log(NAME)
        self.count = 0
        self.newest: dict[str, int] = {}
        """The last step of each kind, with the most recently written kind at the end."""
        self._clock = 0
        self._tail: deque[Entry] = deque()
        self._durable = 0
        self._appending, self._syncing = threading.Lock(), threading.Lock()

    def load(self) -> None:
        """Read the file. Raises ``ResumeError`` for a line that is not an entry; an incomplete last line is dropped."""
        for entry in self._read():
            self._remember(entry)
            self._durable = self.count

    def entries(self) -> Iterator[Entry]:
        """All entries of the file, one after the other."""
        return self._read()

    def entry(self, kind: str, step: int, metrics: Mapping[str, float]) -> Entry:
        """An entry with the present time, but never earlier than the last entry's: clocks jump and differ."""
        return Entry(kind, step, max(time.time_ns() // 1_000_000, self._clock), dict(metrics))

    def append(self, entry: Entry) -> bool:
        """Whether the entry is new."""
        if not _is_new(entry, self.newest):
            return False
        with self._appending:
            self._log.append(json.dumps(entry._asdict()) + "\n")
            self._remember(entry)
        return True

    def absorb(self, entries: Iterable[Entry]) -> None:
        """Add the entries of a checkpoint that are missing here."""
        for entry in entries:
            self.append(entry)

    def since(self, position: int, most: int | None = None) -> list[Entry]:
        """At most ``most`` entries from number ``position`` on."""
        end = None if most is None else position + most
        with self._appending:
            first = self.count - len(self._tail)
            if position >= first:
                return list(islice(self._tail, position - first, None if end is None else end - first))
        # Entries that are not in memory are durable.
        return list(islice(self._read(), position, end))

    def mark(self, position: int) -> bytes:
        """A mark which says that the entries before number ``position`` were sent. It names the last of them."""
        last = self.since(position - 1, 1)[0]
        text = f"{position} {last.kind} {last.step} {last.timestamp}"
        return f"{text} {zlib.crc32(text.encode()):08x}".encode()

    def position(self, mark: bytes | None) -> int:
        """The number of entries of the present file that a mark covers.

        The file may be another one, or lines may be missing, so a number alone is not enough. A damaged mark covers
        nothing, and everything is sent again.
        """
        found = _MARK.fullmatch((mark or b"").decode(errors="replace"))
        if found is None or f"{zlib.crc32(found[1].encode()):08x}" != found[6]:
            return 0
        number, key = int(found[2]), (found[3], int(found[4]), int(found[5]))
        if [entry[:3] for entry in self.since(number - 1, 1)] == [key]:
            return number
        entries = self.since(0)
        exact = (at for at, entry in enumerate(entries, 1) if entry[:3] == key)
        later = (at for at, entry in enumerate(entries) if entry.step > key[1] or entry.timestamp > key[2])
        return next(exact, None) or next(later, len(entries))

    def pending(self) -> Sequence[Entry]:
        """The entries that are not durable yet; a checkpoint holds them."""
        return self.since(self._durable)

    def sync(self) -> None:
        """Make every entry durable. ``append`` does not wait for it."""
        with self._syncing:
            reached = self.count
            if self._durable < reached:
                self._log.sync()
                self._durable = reached

    def close(self) -> None:
        with self._syncing, self._appending:
            self._log.close()

    def _read(self) -> Iterator[Entry]:
        newest: dict[str, int] = {}
        for number, line in enumerate(self._log.lines(), 1):
            try:
                entry = entry_of(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ResumeError(
                    f"journal {self.where}: line {number} is no entry ({error}); put back a copy of the file, or "
                    "delete that line alone and go on: no other line is lost or sent twice"
                ) from error
            if _is_new(entry, newest):
                _note(entry, newest)
                yield entry

    def _remember(self, entry: Entry) -> None:
        _note(entry, self.newest)
        self._clock = max(self._clock, entry.timestamp)
        self._tail.append(entry)
        self.count += 1
        while len(self._tail) > self.kept and self.count - len(self._tail) < self._durable:
            self._tail.popleft()


def entry_of(fields: Any) -> Entry:
    """The entry of a journal's line (an object), or of one that a checkpoint carries (a list).

    Raises:
        ValueError: a field is missing, or is not what a run writes; says which.
    """
    try:
        entry = Entry(**fields) if isinstance(fields, dict) else Entry(*fields)
        if not isinstance(entry.kind, str) or not _KIND.fullmatch(entry.kind):
            raise ValueError("its kind is no word")
        if not all(type(number) is int and 0 <= number < _WHOLE for number in (entry.step, entry.timestamp)):
            raise ValueError("its step or timestamp is no whole number")
        metrics = {name: float(value) for name, value in entry.metrics.items() if type(value) in (int, float)}
        if len(metrics) < len(entry.metrics) or not all(name.isprintable() for name in metrics):
            raise ValueError("its metrics are no names and numbers")
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return entry


def last_step(storage: Storage) -> int:
    """The step of the journal's last line; 0 where it is missing or not an entry."""
    try:
        return entry_of(json.loads(storage.log(NAME).last())).step
    except (ValueError, RecursionError):
        return 0


def _is_new(entry: Entry, newest: dict[str, int]) -> bool:
    if entry.kind in STATUSES and next(reversed(newest), None) != entry.kind:  # the run continued after that status
        return True
    return entry.step > newest.get(entry.kind, -1)


def _note(entry: Entry, newest: dict[str, int]) -> None:
    """Make the entry the last of its series: an evaluation may come again when there was another one in between."""
    series = entry.kind.partition("/")[0]
    for kind in [kind for kind in newest if kind.partition("/")[0] == series]:
        del newest[kind]
    newest[entry.kind] = entry.step
