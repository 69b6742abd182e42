"""A head that does not answer is waited for, and in the end the run is told: Ray's own calls would only block."""

from __future__ import annotations

import socket

import pytest

from pipeline.core.failures import ClusterError, Stopped
from pipeline.runtime.ray_head import RayHead


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_answers_is_not_waited_for():
    with listening() as server:
        head = RayHead(address_of(server), lambda: pytest.fail("waited"))
        head.wait()
    head.watch()
    assert not head.gone, "it was looked at a moment ago"


def test_a_head_that_comes_back_in_time_is_gone_on_with():
    first = listening()
    back = []

    def start_again() -> None:
        assert head.gone
        back.append(listening(port))

    head, port = RayHead(address_of(first), start_again), first.getsockname()[1]
    first.close()
    head.wait()
    assert not head.gone
    (second,) = back
    second.close()


@pytest.mark.fault("F13")
def test_a_head_that_stays_away_ends_the_run_in_one_line():
    with listening() as server:
        head = RayHead(address_of(server), lambda: None, patience_s=0.0)
    with pytest.raises(ClusterError, match=rf"the Ray head at {head.address} has not answered for 0 s.*--resume"):
        head.wait()
    assert head.gone


def test_a_signal_is_seen_while_the_head_is_waited_for():
    def asked() -> None:
        raise Stopped(15)

    with listening() as server:
        head = RayHead(address_of(server), asked)
    with pytest.raises(Stopped):
        head.wait()
    assert head.gone
