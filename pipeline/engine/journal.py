"""The metrics journal: every metric once, on disk before anybody looks at it.

One JSON object a line, keyed (kind, step) within the run's own file; the first write wins, so a step that is replayed
after a crash is not logged again. The journal is made durable now and then, not at every line: until then a checkpoint
carries its entries, and ``absorb`` puts back whatever a crash took. When a run is closed, its status is an entry too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from pipeline.core.failures import ResumeError
from pipeline.engine.protocols import Entry
from pipeline.storage.protocol import Storage

NAME = "journal.jsonl"


class Journal:
    """Append-only; ``entries`` are in the order of their first writing. The publisher's thread syncs it too."""

    def __init__(self, storage: Storage) -> None:
        self.where, self._log = f"{storage.where}/{NAME}", storage.log(NAME)
        self.entries: list[Entry] = []
        self._keys: set[tuple[str, int]] = set()
        self._durable = 0
        self._appending, self._syncing = threading.Lock(), threading.Lock()

    def load(self) -> None:
        """Take up what is there. Raises ``ResumeError`` for a line that is no entry; a torn last line is forgotten."""
        for number, line in enumerate(self._log.read().splitlines(), 1):
            try:
                self._remember(Entry(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ResumeError(
                    f"journal {self.where}: line {number} is no entry ({error}); move the file away to go on"
                ) from error
        self._durable = len(self.entries)

    def entry(self, kind: str, step: int, metrics: Mapping[str, float]) -> Entry:
        """An entry of this moment, though never of an earlier one than the last: clocks jump and differ."""
        now = time.time_ns() // 1_000_000
        return Entry(kind, step, max(now, self.entries[-1].timestamp) if self.entries else now, dict(metrics))

    def append(self, entry: Entry) -> bool:
        """Whether the entry is new."""
        if (entry.kind, entry.step) in self._keys:
            return False
        with self._appending:
            self._log.append(json.dumps(entry._asdict()) + "\n")
            self._remember(entry)
        return True

    def absorb(self, entries: Iterable[Entry]) -> None:
        """Entries that a checkpoint carried."""
        for entry in entries:
            self.append(entry)

    def pending(self) -> Sequence[Entry]:
        """What a crash of the machine could still take: a checkpoint carries these."""
        return self.entries[self._durable :]

    def sync(self) -> None:
        """Make all of it durable. Nobody who appends meanwhile has to wait."""
        with self._syncing:
            reached = len(self.entries)
            if self._durable < reached:
                self._log.sync()
                self._durable = reached

    def close(self) -> None:
        with self._syncing, self._appending:
            self._log.close()

    def _remember(self, entry: Entry) -> None:
        if (entry.kind, entry.step) not in self._keys:
            self._keys.add((entry.kind, entry.step))
            self.entries.append(entry)
