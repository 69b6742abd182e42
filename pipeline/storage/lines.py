"""Reads lines of bounded length from a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

LONGEST = 1 << 24
_BLOCK = 1 << 16


def whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, without an incomplete last line.

    Raises:
        ValueError: a line is longer than any that a run writes; says which.
    """
    number = 0
    while (line := file.readline(LONGEST)).endswith(b"\n"):
        number += 1
        yield line
    if len(line) == LONGEST:
        raise ValueError(f"line {number + 1} has more than {LONGEST >> 20} MiB")


def line_end(handle: int, size: int) -> int:
    """The position after the last newline of the first ``size`` bytes; 0 where there is none."""
    while size:
        start = max(0, size - _BLOCK)
        found = os.pread(handle, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0
