"""A head that does not answer is waited for, a raylet is not; the run is told. Ray's own calls would only block."""

from __future__ import annotations

import errno
import socket

import pytest

from pipeline.core.failures import ClusterError, Stopped
from pipeline.runtime.ray_head import RayHead


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def raylet():
    """The address of a raylet that answers."""
    with listening() as server:
        yield address_of(server)


def test_a_head_that_answers_is_not_waited_for(raylet):
    with listening() as server:
        head = RayHead(address_of(server), raylet, lambda: pytest.fail("waited"))
        head.wait()
    head.watch()
    assert not head.gone, "it was looked at a moment ago"


def test_a_head_that_comes_back_in_time_is_gone_on_with(raylet):
    first = listening()
    back = []

    def start_again() -> None:
        assert head.gone
        back.append(listening(port))

    head, port = RayHead(address_of(first), raylet, start_again), first.getsockname()[1]
    first.close()
    head.wait()
    assert not head.gone
    (second,) = back
    second.close()


@pytest.mark.fault("F13")
def test_a_head_that_stays_away_ends_the_run_in_one_line(raylet):
    with listening() as server:
        head = RayHead(address_of(server), raylet, lambda: None, patience_s=0.0)
    with pytest.raises(ClusterError, match=rf"the Ray head at {head.address} has not answered for 0 s.*--resume"):
        head.wait()
    assert head.gone


@pytest.mark.fault("F12")
def test_a_raylet_that_has_ended_ends_the_run_at_once_in_one_line():
    with listening() as server:
        with listening() as other:
            ended = address_of(other)
        head = RayHead(address_of(server), ended, lambda: None)
        with pytest.raises(ClusterError, match=rf"^the raylet .* at {ended}, has ended: .*memory.*--resume"):
            head.watch()
    assert head.gone
    assert head.raylet_gone


def test_a_head_whose_machine_was_stopped_is_not_waited_for():
    """``ray start --block`` stops a node's other processes when one of them ends."""
    with listening() as server:
        ended = address_of(server)
    head = RayHead(ended, ended, lambda: None, patience_s=60.0)
    with pytest.raises(ClusterError, match=rf"^the Ray head at {ended} does not answer and the raylet .* has ended"):
        head.wait()


def test_a_raylet_that_cannot_be_asked_has_not_ended(monkeypatch, raylet):
    """With no file handle left nobody can be asked; that is this process's trouble."""

    def ask(to, seconds):
        raise OSError(errno.EMFILE, "Too many open files")

    head = RayHead(raylet, raylet, lambda: None, patience_s=0.0)
    monkeypatch.setattr(socket, "create_connection", ask)
    with pytest.raises(ClusterError, match="the Ray head at .*Too many open files"):
        head.wait()
    assert not head.raylet_gone


def test_a_signal_is_seen_while_the_head_is_waited_for(raylet):
    def asked() -> None:
        raise Stopped(15)

    with listening() as server:
        ended = address_of(server)
    for head in (RayHead(ended, raylet, asked), RayHead(raylet, ended, asked)):
        with pytest.raises(Stopped):
            head.wait()
        assert head.gone
