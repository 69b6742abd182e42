"""Watches the image file of a run, and ends the run in one line when the file changes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.core.failures import DataError
from pipeline.tasks import classfile

AGAIN = 32
"""A class is checked again after this many draws of all its images. A checksum costs less than drawing them."""


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


class WatchedFile:
    """An open ``ClassFile`` and the checks of its pixels.

    A class is checked when it is first used and now and then later. Each use looks at the file's size and time, which
    takes a microsecond; where they differ, every class is checked at once.

    Raises:
        DataError: the file is missing or not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stamp = _Stamp.of(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        self.file = classfile.read(path)
        self._drawn: Counter[int] = Counter()
        """How many images of each checked class were drawn since the check."""

    def require_whole(self, classes: Iterable[int], each: int) -> None:
        """Check the pixels of these classes when due; ``each`` of their images are used now.

        Raises:
            DataError: pixels are damaged, or the file was cut or replaced by another one.
        """
        self._look()
        for index in classes:
            if index not in self._drawn or self._drawn[index] >= AGAIN * self._rows(index)[1]:
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
            if classfile.read(self.path).content != self.file.content:
                raise self._changed("was replaced by other data")
        elif now.size < self._stamp.size:  # its last pages are gone, and reading them would end the process
            raise self._changed(f"was cut from {self._stamp.size} to {now.size} bytes")
        else:
            for index in range(len(self.file.names)):
                self._check(index)
        self._stamp = now

    def _check(self, index: int) -> None:
        if not self.file.is_whole(index):
            first, count = self._rows(index)
            name = self.file.names[index]
            raise DataError(
                f"{self.path}: the images of class {name!r} (rows {first} to {first + count - 1}) are not what "
                "was written: the file is damaged; copy it again, or make it again with `python -m jobs.ingest`"
            )
        self._drawn[index] = 0

    def _rows(self, index: int) -> tuple[int, int]:
        first, last = self.file.offsets[index : index + 2].tolist()
        return first, last - first

    def _changed(self, how: str) -> DataError:
        return DataError(f"{self.path}: {how} while it was used; put it back as it was, then go on with --resume")
