"""The output of jobs: for terminals with few characters, closed pipes and readers of JSON."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def show_what_a_terminal_can() -> None:
    """Print escapes for the characters that an ASCII or latin-1 terminal does not know."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def nobody_reads() -> bool:
    """Whether the reader of the output has closed it, as ``head`` does. Later output is then discarded."""
    looked = select.poll()
    looked.register(1, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in looked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


@contextmanager
def stdout_for_the_result() -> Iterator[None]:
    """Send all output inside the block to stderr, also that of libraries and child processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
