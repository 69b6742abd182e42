"""A signal asks a run to end: it is noted, and the run ends at the next place where nothing is half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from pipeline.core.failures import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)

T = TypeVar("T")


class Stop:
    """Whether this process was asked to end. SIGTERM or Ctrl-C asks; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interruptible = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals meanwhile, in the main thread."""
        if threading.current_thread() is not threading.main_thread():  # Python gives signals to that thread alone
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def check(self) -> None:
        """Raises ``Stopped`` if the process was asked to end: call it where the run can be left."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def interruptible(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns. It may be left anywhere inside, so it must change nothing that outlives it."""
        self.check()
        self._interruptible = True
        try:
            return compute()
        finally:
            self._interruptible = False

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if self._interruptible:
            raise Stopped(number)


def is_noted(number: int) -> bool:
    """Whether a run is under way that ends by itself after this signal."""
    return isinstance(getattr(signal.getsignal(number), "__self__", None), Stop)
