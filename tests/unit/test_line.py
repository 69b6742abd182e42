"""A line to an actor: calls in order, one driver that has the key, and an end that both sides notice."""

from __future__ import annotations

import socket
import threading
from multiprocessing.connection import Client
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.runtime import line as lines
from pipeline.runtime.line import BROKEN, LARGEST, Answering, Line, is_small, line_to


class Adder(Answering):
    """An actor in a thread of this process. ``result`` is what its ``serve`` came to."""

    def __init__(self) -> None:
        self.sum = self.spare_time = 0
        self.result: Any = None
        self.remote = self._start
        self.address = self.listen()

    @property
    def serve_handle(self) -> SimpleNamespace:
        return SimpleNamespace(serve=SimpleNamespace(remote=self._start))

    def _start(self, key: bytes) -> threading.Thread:
        thread = threading.Thread(target=self._serve, args=(key,))
        thread.start()
        return thread

    def _serve(self, key: bytes) -> None:
        try:
            self.result = self.serve(key)
        except (ValueError, TimeoutError) as error:
            self.result = error

    def answered(self) -> None:
        self.spare_time += 1

    def add(self, values: Any) -> int:
        if values is None:
            raise ValueError("nothing to add")
        self.sum += int(np.sum(values))
        return self.sum


@pytest.fixture
def adder(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(lines, "CONNECT_S", 0.5)
    return Adder()


def ended(line: Line) -> bool:
    line.ended.join(5.0)
    return not line.ended.is_alive()


def test_calls_are_answered_in_order_until_the_line_is_closed(adder):
    line = Line(adder.serve_handle, adder.address)
    for number in range(3):
        line.call("add", np.full(100_000, number))  # larger than a socket takes at once
    assert [line.answer() for _ in range(3)] == [0, 100_000, 300_000]
    line.close()
    assert ended(line)
    assert adder.result is None
    assert adder.spare_time == 3
    again = Line(adder.serve_handle, adder.address)
    again.call("add", 1)
    assert again.answer() == 300_001
    again.close()


def test_an_error_of_a_method_ends_the_line_and_the_call_behind_it(adder):
    line = Line(adder.serve_handle, adder.address)
    line.call("add", None)
    with pytest.raises(BROKEN):
        line.answer()
    assert ended(line)
    assert str(adder.result) == "nothing to add"


def test_whoever_has_no_key_is_not_answered(adder):
    strangers = [socket.create_connection(adder.address)]
    line_key: list[bytes] = []
    begin = adder._start
    adder._start = lambda key: (line_key.append(key), begin(key))[1]  # type: ignore[method-assign]
    strangers[0].close()
    line = Line(adder.serve_handle, adder.address)
    assert len(line_key[0]) == 32
    line.call("add", 2)
    assert line.answer() == 2
    line.close()
    assert ended(line)
    thread = begin(b"another key")
    with pytest.raises(Exception, match="digest"):
        Client(adder.address, authkey=line_key[0])
    thread.join()
    assert isinstance(adder.result, TimeoutError)


def test_an_actor_that_cannot_be_reached_has_no_line(adder):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = other.getsockname()
    assert line_to(adder.serve_handle, address) is None


def test_small_vectors_may_travel_and_others_not(monkeypatch):
    assert is_small(np.zeros(LARGEST // 4, np.float32))
    assert not is_small(np.zeros(LARGEST // 4 + 1, np.float32))
    assert not is_small("a reference")
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert not is_small(np.zeros(1))
