"""The metrics journal: every metric once, on disk before anybody looks at it.

One JSON object a line, keyed (kind, step) within the run's own file; the first write wins, so a step that is replayed
after a crash is not logged again. The journal itself is not fsynced: a checkpoint carries the entries since the one
before it, and ``absorb`` puts back whatever a crash took.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.failures import ResumeError
from pipeline.engine.protocols import Entry


class Journal:
    """Append-only; ``entries`` are in the order of their first writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.entries: list[Entry] = []
        self._keys: set[tuple[str, int]] = set()
        self._load()
        self._file = path.open("a", encoding="utf-8")

    def append(self, entry: Entry) -> bool:
        """Whether the entry is new."""
        if (entry.kind, entry.step) in self._keys:
            return False
        self._remember(entry)
        self._file.write(json.dumps(entry._asdict()) + "\n")
        self._file.flush()
        return True

    def absorb(self, entries: Iterable[Entry]) -> None:
        """Entries that a checkpoint carried."""
        for entry in entries:
            self.append(entry)

    def close(self) -> None:
        self._file.close()

    def _remember(self, entry: Entry) -> None:
        self._keys.add((entry.kind, entry.step))
        self.entries.append(entry)

    def _load(self) -> None:
        if not self.path.exists():
            return
        try:
            text = self.path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ResumeError(f"journal {self.path}: is no text ({error}); move the file away to go on") from None
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._remember(Entry(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ResumeError(
                    f"journal {self.path}: line {number} is no entry ({error}); move the file away to go on"
                ) from error
        if whole != text:
            # A crash in the middle of a line: the checkpoint has that entry.
            with self.path.open("r+", encoding="utf-8") as file:
                file.truncate(len(whole.encode()))
