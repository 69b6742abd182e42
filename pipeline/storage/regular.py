"""Opens files of a run's folder, which are regular files under their own names.

A run's folder may come from a stranger. Through a link a write could reach any file of the user, and a FIFO or a device
could block forever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.core.failures import ForeignFileError, StorageError

_KINDS: dict[Callable[[int], bool], str] = {
    stat.S_ISLNK: "a symbolic link",
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
}
_SHOWN = 200


def open_regular(path: Path, flags: int) -> int:
    """Open a file as ``os.open`` does, without following a link and without waiting.

    Raises:
        ForeignFileError: a link, a FIFO, a device or a folder has that name; or a file that would be written has a
            second name (a hard link).
        OSError: as ``os.open`` raises it.
    """
    with suppress(FileNotFoundError):
        refuse_foreign(path, path.lstat(), flags)  # checked before opening, because opening a device may have effects
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        refuse_foreign(path, os.fstat(handle), flags)
    except ForeignFileError:
        os.close(handle)
        raise
    return handle


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a run's folder for reading.

    Raises:
        ForeignFileError: it is no regular file, or its reader raised ``ValueError`` at what it holds.
        StorageError: it cannot be read.
    """
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            yield file
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ForeignFileError(f"{path}: {error}, and no run writes such; put back a copy") from None


def refuse_foreign(path: Path, found: os.stat_result, flags: int) -> None:
    """Raises ``ForeignFileError`` for what a run never writes."""
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in _KINDS.items() if test(found.st_mode)), "a device")
        raise ForeignFileError(f"{path}: is {kind}, and a run's folder holds regular files only; remove it")
    if flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
        raise ForeignFileError(
            f"{path}: is also another file (a hard link), which would be changed with it; replace it by a copy of its "
            "own"
        )


def subfolder(folder: Path, name: str) -> Path:
    """The path of a sub-folder of a run's folder, or of that folder itself for the empty name.

    Raises:
        ForeignFileError: it is a link, or a folder on the way to it is.
    """
    path = folder
    for part in Path(name).parts:
        path /= part
        if path.is_symlink():
            raise ForeignFileError(f"{path}: is a symbolic link, and a run's sub-folders are none; replace it")
    return path


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a run's folder. Raises as ``subfolder`` does."""
    return subfolder(folder, os.path.dirname(name)) / os.path.basename(name)


def shown(path: Path) -> str:
    """The beginning of a file's text as one printable line, for a message."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        return one_line(file.read(_SHOWN))


def one_line(data: bytes) -> str:
    """Foreign text, printable and short, for a message."""
    text = data[:_SHOWN].decode(errors="replace")
    return text if text.isprintable() else ascii(text)
