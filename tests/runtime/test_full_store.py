"""An object store that is much smaller than what a run puts into it, and one that has no room at all."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayTaskError, WorkerCrashedError

from pipeline.core.failures import ClusterError
from pipeline.runtime.ray_errors import is_full, system_failure
from tests.quiet_runs import run
from tests.runtime.full_store import STEPS, STORE, wide
from tests.runtime.tiny import CHUNK, TASKS

pytestmark = pytest.mark.ray

FITS, TOO_WIDE = 1000, 5500
"""Widths: theta of 4 MB, and of 121 MB for a store of 84 MB."""


def raised(cause):
    """What Ray gives for a call that raised, or whose argument did."""
    return RayTaskError("learn", "", cause, "ray::TaskWorker", 1, "127.0.0.1")


@pytest.mark.parametrize("kind", [OutOfDiskError, ObjectStoreFullError])
def test_no_worker_is_blamed_for_a_store_without_room(kind):
    for error in (kind("full"), raised(kind("full")), raised(raised(kind("full")))):
        with pytest.raises(ClusterError, match="object store has no room"):
            system_failure(error)
    assert not is_full(raised(raised(WorkerCrashedError())))


def in_a_small_store(*command):
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "Traceback" not in answer.stderr
    assert "Error" not in answer.stderr
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    return json.loads(line)


def drill(folder, spill, width):
    return [sys.executable, "-m", "tests.runtime.full_store", str(folder), str(spill), str(width)]


@pytest.mark.fault("F22")
@pytest.mark.drill
def test_what_a_step_no_longer_needs_leaves_the_store(tmp_path, torch_threads):
    put = 4 * FITS**2 * (1 + TASKS // CHUNK) * STEPS
    assert put > 4 * STORE
    outcome = in_a_small_store(*drill(tmp_path / "run", tmp_path / "spilled", FITS))
    serial = run(wide(FITS), tmp_path / "serial", 0)
    assert outcome["theta"] == serial.theta
    assert [tuple(entry) for entry in outcome["journal"]] == serial.journal
    assert outcome["spilled"] < put / 8, "references are kept"
    assert len(outcome["used"]) == STEPS
    assert max(outcome["used"]) < STORE
    figures = (
        f"{put / 1e6:.0f} MB put, {max(outcome['used']) / 1e6:.0f} MB held at the most, {outcome['seconds']:.0f} s"
    )
    print(figures)  # noqa: T201  (shown with -s: a figure to write down)


@pytest.mark.fault("F22")
@pytest.mark.drill
def test_a_theta_for_which_there_is_no_room_anywhere_ends_the_run_in_one_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    private = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*private, *mount], capture_output=True, check=False).returncode:
        pytest.skip("needs a disk of its own: this machine does not let a user mount one (unshare -rm mount)")
    command = f"{shlex.join(mount)} && exec {shlex.join(drill(tmp_path / 'run', disk, TOO_WIDE))}"
    outcome = in_a_small_store(*private, "sh", "-c", command)
    assert outcome["error"].startswith("ClusterError: Ray's object store has no room")
    assert "\n" not in outcome["error"]
    assert not outcome["used"], "not one step was done"
    assert outcome["seconds"] < 60.0
    print(f"{outcome['seconds']:.0f} s")  # noqa: T201  (shown with -s: a figure to write down)
