"""Records a signal; the run ends at the next point at which its state is consistent."""

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
    """Whether SIGTERM or Ctrl-C asked this process to end. A second signal ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interruptible = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside the block, in the main thread."""
        if threading.current_thread() is not threading.main_thread():  # Python delivers signals to that thread only
            yield
            return
        before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def check(self) -> None:
        """Raises ``Stopped`` if the process was asked to end. Call it where the state is consistent."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def interruptible(self, compute: Callable[[], T]) -> T:
        """The result of ``compute``, which a signal may interrupt anywhere, so it must change no lasting state."""
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
    """Whether a run handles this signal and ends by itself."""
    return isinstance(getattr(signal.getsignal(number), "__self__", None), Stop)
