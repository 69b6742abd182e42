"""What a training leaves behind: its processes, shared memory and the files of its run."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

from tests.runtime.interrupted import ORPHANS_S

MARK = "METAFLEET_TEST"
"""A variable in the environment of a training and of all that it starts."""
SHARED = Path("/dev/shm")
RUN = {
    "recipe.yaml",
    "task.json",
    "journal.jsonl",
    "journal.sent",
    "tracked_run",
    "tracked_key",
    "lock",
    "epochs/00000001",
}
CHECKPOINT = re.compile(r"checkpoints/step-\d{8}\.safetensors")


def marked(mark):
    """The processes of the training, whoever their parent is by now."""
    return [one for one in psutil.process_iter() if environment(one).get(MARK) == mark]


def environment(process):
    try:
        return process.environ()
    except psutil.Error:  # it is gone, or somebody else's
        return {}


def shared():
    """Files in shared memory, where Ray and torch put them; servers of MLflow make folders there."""
    return {str(path) for path in SHARED.iterdir() if path.is_file()}


def shared_by(processes):
    """Shared memory that processes hold, whether it still has a name or not."""
    held = [one.path for process in processes for one in maps_of(process)]
    return {path for path in held if path.startswith(f"{SHARED}/")}


def maps_of(process):
    try:
        return process.memory_maps()
    except psutil.Error:
        return []


def check(run, mark, before, kept):
    """Of a training with that mark there is its run, of files that are ``kept`` and checkpoints, and nothing else."""
    deadline = time.monotonic() + ORPHANS_S
    while (orphans := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphans
    # What came meanwhile and is in use is somebody else's: no process of this training is left.
    assert not shared() - before - shared_by(psutil.process_iter())
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    checkpoints = {name for name in files if CHECKPOINT.fullmatch(name)}
    assert 1 <= len(checkpoints) <= 2
    assert files - checkpoints == kept, f"unlike what is kept: {', '.join(sorted((files - checkpoints) ^ kept))}"
