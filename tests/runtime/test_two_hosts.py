"""A link between two hosts that loses every packet: the run goes on without the other, and with it once it is back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.quiet_runs import run
from tests.runtime.tiny import recipe
from tests.runtime.two_hosts import STEPS

pytestmark = [pytest.mark.ray, pytest.mark.drill]

PRIVATE = ["unshare", "--map-root-user", "--net"]
STALL_S = 15.0


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"two hosts on one machine need {', '.join(missing)}")
    link = [*PRIVATE, "ip", "link", "add", "here", "type", "veth", "peer", "name", "there"]
    if subprocess.run(link, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a user have networks of his own (unshare --map-root-user --net)")


@pytest.mark.fault("F14")
def test_a_link_that_loses_every_packet_leaves_no_trace(tmp_path, torch_threads):
    command = [*PRIVATE, sys.executable, "-m", "tests.runtime.two_hosts", str(tmp_path / "run")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    outcome = json.loads(line)
    serial = run(recipe("maml", tmp_path, STEPS), tmp_path / "serial", 0)
    assert outcome["theta"] == serial.theta
    assert [tuple(entry) for entry in outcome["journal"]] == serial.journal
    assert outcome["losses"] == serial.losses
    assert outcome["longest_step"] < STALL_S
    print(outcome["longest_step"])  # noqa: T201  (shown with -s: a figure to write down)
