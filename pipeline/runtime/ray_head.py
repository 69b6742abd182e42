"""Checks that a cluster's head and this machine's raylet answer. Ray's own calls wait for them silently."""

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

    ``raylet`` is the HOST:PORT of this machine's raylet, through which this process uses the cluster. No other can
    take its place.

    ``patience_s`` is how long the head may be unreachable: one with a persistent store comes back. After 60 s Ray ends
    the process, too fast to end the run.
    """

    def __init__(self, address: str, raylet: str, check: Callable[[], None], patience_s: float = 20.0) -> None:
        self.address, self.raylet, self.check, self.patience_s = address, raylet, check, patience_s
        self.gone = self.raylet_gone = False
        self._looked = 0.0

    def watch(self) -> None:
        """``wait``, once in ``LOOK_S``: for loops."""
        if time.monotonic() - self._looked > LOOK_S:
            self.wait()

    def wait(self) -> None:
        """Return at once if the head answers, otherwise wait for it.

        Raises:
            ClusterError: it has not answered for ``patience_s``, or the raylet has ended.
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
        """Why the head does not answer. Raises ``ClusterError`` where the raylet has ended."""
        problem = _connect(self.address)
        # Only a refusal says that nobody listens; other problems are those of this process.
        if isinstance(_connect(self.raylet), ConnectionRefusedError):
            self.gone = self.raylet_gone = True
            self.check()
            also = "" if problem is None else f"the Ray head at {self.address} does not answer and "
            raise ClusterError(
                f"{also}the raylet of this machine, at {self.raylet}, has ended: it was stopped or killed, perhaps "
                "because memory ran out (see dmesg); the last finished step is kept: start Ray here again if you "
                "started it, and add --resume to the same command"
            )
        return problem


def _connect(address: str) -> OSError | None:
    """Why nobody answers at HOST:PORT; None if somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        return error
    return None
