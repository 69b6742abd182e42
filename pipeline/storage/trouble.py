"""Messages for a disk that fails, and calls that a signal may interrupt."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.storage.sizes import size_text

_SPARE = 1 << 16
"""A disk with this much more space than is needed is not full; the error is a quota's."""
_TRIES = 3


def fix_for(error: OSError, folder: Path, need: int) -> str:
    """The part of a message that names the fault of a disk and the fix."""
    wanted = size_text(need)
    if error.errno == errno.EDQUOT:
        return f"it needs {wanted}, and the quota there is used up; remove files of the same owner, or have it raised"
    if error.errno == errno.ENOSPC:
        free = free_bytes(folder)
        if free < need + _SPARE:
            return f"it needs {wanted}, and {size_text(free)} are free; make room"
        if os.statvfs(_nearest(folder)).f_favail == 0:
            return f"it needs {wanted}, and {size_text(free)} are free, but no more files may be made; remove some"
        return f"it needs {wanted}, and the disk has more than that free, so a quota is used up; have it raised"
    if error.errno == errno.EFBIG:
        return f"it needs {wanted}; lift the limit on the size of files (ulimit -f)"
    if error.errno == errno.EIO:
        return "the disk has an error; see to it"
    return "see that the folder is there and can be written"


def free_bytes(folder: Path) -> int:
    """The free bytes of the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_nearest(folder)).free


def repeated(call: Callable[[], object]) -> None:
    """Repeat a call that a signal interrupted. Python repeats reads and writes, but not calls on names in a folder."""
    for left in reversed(range(_TRIES)):
        try:
            call()
        except InterruptedError:
            if not left:
                raise
        else:
            return


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
