"""Watches the data file of a run, and ends the run in one line when the file changes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from pipeline.core.failures import DataError

AGAIN = 32
"""A part is checked again after this many draws of all its rows. A checksum costs less than drawing them."""


class DataFile(Protocol):
    """An open file of parts, such as classes or languages, each of some rows and with a checksum."""

    @property
    def content(self) -> str:
        """The hash of what is in it."""
        ...

    @property
    def checksums(self) -> Sequence[int]:
        """The checksum of each part."""
        ...

    def is_whole(self, index: int) -> bool:
        """Whether a part has its checksum."""
        ...

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, last) of a part."""
        ...

    def part(self, index: int) -> str:
        """What a part is called in an error: ``the images of class 'x'``."""
        ...


F = TypeVar("F", bound=DataFile)


class _Stamp(NamedTuple):
    """The file's attributes that a write, or a replacement, changes."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        found = os.stat(path)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class WatchedFile(Generic[F]):
    """An open file and the checks of its parts.

    A part is checked when it is first used and now and then later. Each use looks at the file's size and time, which
    takes a microsecond; where they differ, every part is checked at once.

    Args:
        path: the file.
        read: opens it.

    Raises:
        DataError: the file is missing or not one of ours.
    """

    def __init__(self, path: Path, read: Callable[[Path], F]) -> None:
        self.path, self._read = path, read
        try:
            self._stamp = _Stamp.of(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        self.file = read(path)
        self._drawn: Counter[int] = Counter()
        """How many rows of each checked part were drawn since the check."""

    def require_whole(self, parts: Iterable[int], each: int) -> None:
        """Check these parts when due; ``each`` of their rows are used now.

        Raises:
            DataError: a part is damaged, or the file was cut or replaced by another one.
        """
        self._look()
        for index in parts:
            first, last = self.file.rows(index)
            if index not in self._drawn or self._drawn[index] >= AGAIN * (last - first):
                self._check(index)
            self._drawn[index] += each

    def _look(self) -> None:
        try:
            now = _Stamp.of(self.path)
        except FileNotFoundError:
            return  # the mapped pages stay, and no process can write to them
        except OSError as error:
            raise DataError(f"{self.path}: can no longer be read ({error.strerror}); see to its disk") from None
        if now == self._stamp:
            return
        if now[:2] != self._stamp[:2]:
            if self._read(self.path).content != self.file.content:
                raise self._changed("was replaced by other data")
        elif now.size < self._stamp.size:  # its last pages are gone, and reading them would end the process
            raise self._changed(f"was cut from {self._stamp.size} to {now.size} bytes")
        else:
            for index in range(len(self.file.checksums)):
                self._check(index)
        self._stamp = now

    def _check(self, index: int) -> None:
        if not self.file.is_whole(index):
            first, last = self.file.rows(index)
            raise DataError(
                f"{self.path}: {self.file.part(index)} (rows {first} to {last - 1}) are not what was written: the file "
                "is damaged; copy it again, or make it again with `python -m jobs.ingest`"
            )
        self._drawn[index] = 0

    def _changed(self, how: str) -> DataError:
        return DataError(f"{self.path}: {how} while it was used; put it back as it was, then go on with --resume")
