"""Guards against the contents of a stranger's folder: links that lead out of it, FIFOs and devices."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

OUTWARD = "links that lead out of the folder (copy what they name)"


def leads_out(path: Path, root: Path) -> bool:
    """Whether ``path`` is a link to something outside the resolved folder ``root``, or to nothing at all."""
    if not path.is_symlink():
        return False
    try:
        return not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # links in a circle
        return True


def open_file(path: Path) -> BinaryIO:
    """Open a regular file without blocking. Raises ``OSError`` for anything else."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "is no regular file")
    return os.fdopen(handle, "rb")
