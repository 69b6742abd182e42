"""Clusters that lose nodes, gain nodes, are told to give nodes back, or deliver messages twice: the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.quiet_runs import run
from tests.runtime.drill import STEPS
from tests.runtime.tiny import recipe

pytestmark = [pytest.mark.ray, pytest.mark.drill, pytest.mark.usefixtures("torch_threads")]

# Each kind of message may be lost on the way there, lost on the way back, or delivered twice.
UNRELIABLE = json.dumps(
    {
        f"CoreWorkerService.grpc_client.{call}": {
            "num_failures": 20,
            "req_failure_prob": 10,
            "resp_failure_prob": 10,
            "in_flight_failure_prob": 10,
        }
        for call in ("PushTask", "GetObjectStatus")
    }
)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return run(recipe("maml", folder, STEPS), folder, 0)


@pytest.mark.fault("F9", "F12", "F20")
@pytest.mark.parametrize(
    ("kind", "environment", "stall"),
    [("nodes", {}, 10.0), ("drain", {}, 10.0), ("messages", {"RAY_testing_rpc_failure": UNRELIABLE}, 60.0)],
    ids=["a node is lost and one comes", "a node is drained", "messages are lost and doubled"],
)
def test_the_cluster_s_troubles_leave_no_trace(kind, environment, stall, serial, tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "tests.runtime.drill", kind, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    outcome = json.loads(line)
    assert outcome["theta"] == serial.theta
    assert [tuple(entry) for entry in outcome["journal"]] == serial.journal
    assert outcome["losses"] == serial.losses
    assert outcome["longest_step"] < stall
    print(kind, outcome["longest_step"], outcome["nodes"])  # noqa: T201  (shown with -s: a figure to write down)
