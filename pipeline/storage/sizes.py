"""Sizes as text, and the limit of what is read into memory: a sparse file can be larger than memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.core.failures import ForeignFileError

_ABOUT = Path("/proc/meminfo")


def size_text(size: float) -> str:
    """A number of bytes as text, in units of 1000."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB" if size < 1000 else f"{size:,.0f} GB"


def refuse_large(path: object, size: int, most: int | None) -> None:
    """Raises ``ForeignFileError`` where a file has more than ``most`` bytes, or more than memory can hold twice."""
    limit = free_memory() // 2 if most is None else most
    if size > limit:
        raise ForeignFileError(
            f"{path}: has {size_text(size)}, and {size_text(limit)} can be read here; put back a copy"
            + (", or use a machine with more memory" if most is None else "")
        )


def free_memory() -> int:
    """The bytes of memory that are free now; all memory where the system does not say."""
    found = re.search(r"MemAvailable: +(\d+) kB", _ABOUT.read_text()) if _ABOUT.exists() else None
    return int(found[1]) << 10 if found else all_memory()


def all_memory() -> int:
    """The bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
