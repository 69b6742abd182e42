"""Handles signals before and after a job's work. It is imported first, because other imports take seconds."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end(number: int, frame: FrameType | None = None, *notes: str) -> NoReturn:
    """End at once, because there is nothing to save. A second signal always ends at once."""
    lines = [f"stopped by {signal.Signals(number).name}", *notes]
    with suppress(OSError):  # the reader is gone
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
    os._exit(128 + number)


def end_with_ray(number: int, *notes: str) -> NoReturn:
    """Like ``end``, and stop a Ray that was started here: its agents would look for it for up to a minute."""
    if "ray" in sys.modules:
        from pipeline.runtime.cluster import stop_local_raylet

        stop_local_raylet()
    end(number, None, *notes)


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if sys.argv[0] == "-m":  # so it is while Python loads `python -m jobs.NAME`, and not where somebody imports a job
    atexit.register(_ignore)  # the first registered is called last; after it Python removes our handlers
    for one in SIGNALS:
        signal.signal(one, end)
