"""A direct line to an actor: a socket over which its methods are called, at a tenth of what a call through Ray takes.

Ray still starts and stops the actor, and says why it failed: all calls over a line are made inside of one Ray call,
``serve``. What a method raises ends that call and the line with it. A line is for messages that are small; large
vectors travel through Ray's object store, which a node's processes share.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

import numpy as np
import ray

LARGEST = 1 << 20
"""Bytes of the largest vector that travels over a line."""
CONNECT_S = 5.0
"""Seconds to make a line, after which there is none."""
STUCK_S = 2.0
"""Seconds for one message, once it has begun, before the actor counts as lost: it was stopped halfway."""

BROKEN = (EOFError, OSError)
"""What using a line raises whose other end is gone."""


def is_small(vector: Any) -> bool:
    """Whether it is a vector, and no reference, that may travel over a line. None may where Ray encrypts its own."""
    return isinstance(vector, np.ndarray) and vector.nbytes <= LARGEST and os.environ.get("RAY_USE_TLS", "0") == "0"


class Answering:
    """An actor whose methods can be called over a line."""

    def listen(self) -> tuple[str, int]:
        """The address at which ``serve`` will wait for the driver."""
        host = ray.util.get_node_ip_address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        return self._listening.getsockname()[:2]

    def serve(self, key: bytes) -> None:
        """Answer the driver's calls in order until it closes the line. Raises what a method raises."""
        with self._accepted(key) as line:
            while True:
                try:
                    method, arguments = line.recv()
                except BROKEN:
                    return
                answer = getattr(self, method)(*arguments)
                try:
                    _send(line, answer)
                except BROKEN:
                    return
                self.answered()

    def answered(self) -> None:
        """Called when an answer is on its way: the place for work that the next call is spared."""

    def _accepted(self, key: bytes) -> Connection:
        """The driver's line. Raises ``TimeoutError`` where it does not come. Whoever else knocks has no key."""
        until = time.monotonic() + CONNECT_S
        while (left := until - time.monotonic()) > 0:
            self._listening.settimeout(left)
            try:
                line = _connection(self._listening.accept()[0], left)
                deliver_challenge(line, key)
                answer_challenge(line, key)
            except (AuthenticationError, *BROKEN):
                continue
            _limit(line, 0.0)  # the next call may be a long time in coming
            return line
        raise TimeoutError(f"the driver did not come to {self._listening.getsockname()}")


class Line:
    """The driver's end of a line. Answers come in the order of calls; ``ended`` is the Ray call behind it.

    Raises:
        OSError: the actor cannot be reached.
    """

    def __init__(self, actor: Any, address: tuple[str, int]) -> None:
        key = secrets.token_bytes(32)
        self.ended = actor.serve.remote(key)
        self.socket = _connection(socket.create_connection(address, CONNECT_S), CONNECT_S)
        try:
            answer_challenge(self.socket, key)
            deliver_challenge(self.socket, key)
        except (AuthenticationError, EOFError) as error:
            raise OSError(f"{address[0]}:{address[1]} is not the actor's ({error})") from error
        _limit(self.socket, STUCK_S)

    def call(self, method: str, *arguments: Any) -> None:
        """Raises one of ``BROKEN`` where the actor is gone."""
        _send(self.socket, (method, arguments))

    def answer(self) -> Any:
        """The next answer, which must have begun to arrive. Raises one of ``BROKEN`` where the actor is gone."""
        return self.socket.recv()

    def close(self) -> None:
        self.socket.close()


def line_to(actor: Any, address: tuple[str, int]) -> Line | None:
    """A line to an actor that listens there; None where it cannot be reached, as behind a firewall."""
    try:
        return Line(actor, address)
    except OSError:
        return None


def _connection(plain: socket.socket, seconds: float) -> Connection:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a message's head does not wait for its body
    plain.settimeout(None)
    line = Connection(plain.detach())
    _limit(line, seconds)
    return line


def _send(line: Connection, message: Any) -> None:
    line.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))  # a third of the time of ``line.send``


def _limit(line: Connection, seconds: float) -> None:
    """For how long one read or write may wait; 0 is for ever."""
    with socket.socket(fileno=os.dup(line.fileno())) as same:
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
