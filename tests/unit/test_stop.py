"""Signals: noted at once, raised where a run can be left, and a second one ends the process where it stands."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading

import pytest

from pipeline.core.failures import Stopped
from pipeline.engine.stop import SIGNALS, Stop


@pytest.fixture
def stop():
    """Listens; whatever handled the signals before does so again afterwards."""
    before = [signal.getsignal(number) for number in SIGNALS]
    stop = Stop()
    with stop.listening():
        yield stop
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_a_place_where_the_run_can_be_left(stop, number, code):
    stop.check()
    signal.raise_signal(number)
    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert (stopped.value.signal, stopped.value.exit_code) == (number, code)


def test_what_may_be_cut_is_cut(stop):
    reached = []

    def compute():
        signal.raise_signal(signal.SIGINT)
        reached.append("the line after the signal")

    with pytest.raises(Stopped):
        stop.interruptible(compute)
    assert not reached
    with pytest.raises(Stopped):  # and nothing is begun any more
        stop.interruptible(lambda: reached.append("the next chunk"))
    assert not reached


def test_what_was_cut_once_is_not_cut_later(stop):
    assert stop.interruptible(lambda: 7) == 7
    signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGTERM


def test_no_exception_handler_takes_it_for_a_fault():
    assert not issubclass(Stopped, Exception)
    received = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM)))
    assert (received.signal, received.exit_code) == (15, 143)


def test_another_thread_leaves_the_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen():
        with Stop().listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.fault("F19")
@pytest.mark.parametrize(("second", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_the_process_at_once(second, code):
    script = (
        "import signal\nfrom pipeline.engine.stop import Stop\nwith Stop().listening():\n"
        "    signal.raise_signal(signal.SIGTERM)\n    print('asked', flush=True)\n"
        f"    signal.raise_signal(signal.{second})\n    print('still here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "asked\n", "")
