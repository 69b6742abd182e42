"""SIGTERM and Ctrl-C end a job within two seconds, whatever its process is doing."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from jobs.signals import SIGNALS, end, end_with_ray
from pipeline.core.failures import Stopped

PATIENCE_S = 1.0


@contextmanager
def listening() -> Iterator[None]:
    """A signal raises ``Stopped`` in the main thread. After ``PATIENCE_S`` it ends the process.

    A library may hold the main thread for long, as Ray does at its start, or swallow an exception.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        writer.close()


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    for one in SIGNALS:
        signal.signal(one, end)
    raise Stopped(number)


def _watch(reader: socket.socket) -> None:
    with reader:
        while numbers := reader.recv(1):
            if numbers[0] in SIGNALS and not _is_noted(numbers[0]):
                time.sleep(PATIENCE_S)
                end_with_ray(numbers[0])


def _is_noted(number: int) -> bool:
    """Whether a run handles the signal and ends by itself. There is none before its module is imported."""
    stop = sys.modules.get("pipeline.engine.stop")
    return stop is not None and bool(stop.is_noted(number))
