"""A signal ends a job wherever its process is: before its work, in it, in a library that keeps it, and after it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

START = """
import atexit, sys

def wait():
    print("ready", flush=True)
    sys.stdin.readline()
"""
LOAD = """
sys.argv[0] = "-m"  # as Python has it while it loads `python -m jobs.NAME`
import jobs
"""
PLACES = {
    "before its work": START + LOAD + "wait()",
    "in its work": START + LOAD + "jobs.run(wait)",
    "in a library that swallows what is raised": START
    + LOAD
    + """
def main():
    while True:
        try:
            wait()
        except BaseException as swallowed:
            last = swallowed
jobs.run(main)
""",
    "after its work": START + LOAD + "atexit.register(wait)\njobs.run(lambda: None)",
}
END_S = 2.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_a_job_with_its_code(place, number):
    with ready(PLACES[place]) as process:
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < END_S
    assert err == f"stopped by {number.name}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_job_that_is_done_does_not_change_its_code(number):
    """Python takes handlers away before it has ended, so that the signal would kill it."""
    with ready(START + "atexit.register(wait)\n" + LOAD + "jobs.run(lambda: None)") as process:
        process.send_signal(number)
        _, err = process.communicate("go on\n", timeout=30)
    assert (process.returncode, err) == (0, "")


def ready(script: str) -> subprocess.Popen[str]:
    """A process that runs ``script``, once it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_job_that_is_imported_leaves_signals_alone():
    script = "import signal; before = signal.getsignal(2), signal.getsignal(15); import jobs.train, jobs\n"
    script += "jobs.stopping.listening().__enter__().__class__\n" if False else ""
    script += "assert (signal.getsignal(2), signal.getsignal(15)) == before"
    subprocess.run([sys.executable, "-c", script], check=True)
