"""A small sweep of twelve children, in a process of its own or in this one, and what MLflow has of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient

from tests.in_mlflow import check_metrics

START_S = 120.0
VARIED = ("outer.model.lr=1e-3,3e-3,1e-2", "algorithm.inner_steps=1,2", "algorithm.inner_lr=0.01,0.03")
SMALL = (
    *("steps=6", "tasks_per_step=4", "chunk_size=2", "net.hidden=[8]", "algorithm.eval_inner_steps=2"),
    *("evaluation.tasks=6", "evaluation.validation_tasks=4", "evaluation.validate_every=2"),
    *("tracking.log_every=1", "tracking.report=false"),
)
CHILDREN = 12


class Sweeping:
    """``python -m jobs.sweep`` of ``folder/sweep``, started as often as it is killed."""

    def __init__(self, folder: Path, *changes: str) -> None:
        self.folder, self.sweep, self.changes = folder, folder / "sweep", changes

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.sweep", "sinusoid_maml", *VARIED, *SMALL, *self.changes]
        return subprocess.Popen(
            [*command, "--output", "sweep", *(("--resume",) if (self.sweep / "sweep.json").exists() else ()), *options],
            cwd=self.folder,
            stdout=(self.folder / "out").open("a"),
            stderr=(self.folder / "err").open("a"),
            start_new_session=True,
        )

    def kill_when(self, name: str, number: signal.Signals, *options: str) -> int:
        """Start it, and send the signal once the sweep's folder has this file; returns the exit code."""
        process = self.start(*options)
        deadline = time.monotonic() + START_S
        while not (self.sweep / name).exists():
            assert process.poll() is None, (self.folder / "err").read_text()
            assert time.monotonic() < deadline, (self.folder / "out").read_text()
            time.sleep(0.002)
        os.kill(process.pid, number)
        return process.wait(30)


def problems(uri: str, sweep: Path, children_in_all: int = CHILDREN) -> list[str]:
    """What is wrong with a sweep in MLflow: each child is there once, under one parent, and whole."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("metafleet").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    names = Counter(run.info.run_name for run in children)
    expected = {f"sinusoid_maml-{number:03d}": 1 for number in range(1, children_in_all + 1)}
    found = [] if names == expected else [f"children in MLflow: {dict(names)}"]
    found += [] if len(parents) == 1 else [f"{len(parents)} parents"]
    found += [f"{run.info.run_name} is {run.info.status}" for run in runs if run.info.status != "FINISHED"]
    above = {run.data.tags["mlflow.parentRunId"] for run in children}
    found += [] if above == {run.info.run_id for run in parents} else [f"children of {above}"]
    values = {tuple(run.data.params[one.partition("=")[0]] for one in VARIED) for run in children}
    found += [] if len(values) == children_in_all else [f"{len(values)} combinations of values"]
    for name in expected:
        found += [f"{name}: {problem}" for problem in check_metrics(sweep / name, uri)]
    return found
