"""What a signal does to a job before its work and after it. Imported before all else: imports take seconds."""

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
    """End at once: there is nothing to put away. A second signal does so too, whatever there is."""
    lines = [f"stopped by {signal.Signals(number).name}", *notes]
    with suppress(OSError):  # nobody reads it
        os.write(2, "".join(f"{line}\n" for line in lines).encode())
    os._exit(128 + number)


def end_with_ray(number: int, *notes: str) -> NoReturn:
    """``end``, together with a Ray that was started here: its agents would look for it for up to a minute."""
    if "ray" in sys.modules:
        from pipeline.runtime.cluster import stop_local_raylet

        stop_local_raylet()
    end(number, None, *notes)


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if sys.argv[0] == "-m":  # so it is while Python loads `python -m jobs.NAME`, and not where somebody imports a job
    atexit.register(_ignore)  # the first to be registered is called last; after it Python takes our handlers away
    for one in SIGNALS:
        signal.signal(one, end)
