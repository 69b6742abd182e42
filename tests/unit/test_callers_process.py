"""What the front door leaves behind in its caller's process, and what it says where it cannot run at all."""

from __future__ import annotations

import os
import subprocess
import sys

CALLER = """
import os, sys, torch
import pipeline

def state():
    return torch.get_num_threads(), {name: value for name, value in os.environ.items() if name[:4] in ("MLFL", "RAY_")}

torch.set_num_threads(2)
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "false"
before = state()
for number in (1, 2):
    changes = ["steps=2", "evaluation.tasks=2", f"tracking.uri={sys.argv[1]}", "tracking.report=false"]
    run = pipeline.train("sinusoid_maml", changes, output=f"run{number}")
    assert state() == before, (before, state())
    pipeline.replay(run.folder, step=1, number=0)
    assert state() == before, (before, state())
"""


def test_training_leaves_threads_and_variables_as_they_were(mlflow_uri, tmp_path):
    """In a process of its own, in which neither MLflow nor Ray was imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    command = [sys.executable, "-c", CALLER, mlflow_uri]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_windows_is_told_in_one_line():
    script = "import sys; sys.platform = 'win32'; import jobs"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: metafleet runs on Linux and macOS, and on Windows inside WSL 2\n"
