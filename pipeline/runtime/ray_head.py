"""Checks that the head of a cluster answers. Ray's own calls wait for it silently, then end the process."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from pipeline.core.failures import ClusterError

LOOK_S = 1.0
ANSWER_S = 1.0
WAIT_S = 0.2


class RayHead:
    """The head at HOST:PORT; ``check`` raises if this process was asked to end.

    ``patience_s`` is how long it may be unreachable: a head with a persistent store comes back. After 60 s Ray ends the
    process, too fast to end the run.
    """

    def __init__(self, address: str, check: Callable[[], None], patience_s: float = 20.0) -> None:
        self.address, self.check, self.patience_s = address, check, patience_s
        self.gone = False
        self._looked = 0.0

    def watch(self) -> None:
        """``wait``, once in ``LOOK_S``: for loops."""
        if time.monotonic() - self._looked > LOOK_S:
            self.wait()

    def wait(self) -> None:
        """Return at once if the head answers, otherwise wait for it.

        Raises:
            ClusterError: it has not answered for ``patience_s``.
        """
        missed = time.monotonic()
        while (problem := self._problem()) is not None:
            self.gone = True  # and so it is for whoever leaves from here
            self.check()
            if time.monotonic() - missed > self.patience_s:
                raise ClusterError(
                    f"the Ray head at {self.address} has not answered for {self.patience_s:g} s ({problem}); "
                    "the last finished step is kept: start a head again, and add --resume to the same command"
                )
            time.sleep(WAIT_S)
        self.gone = False
        self._looked = time.monotonic()

    def _problem(self) -> OSError | None:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
        except OSError as error:
            return error
        return None
