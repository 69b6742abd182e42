"""A plug-in outside the checkout: trained on Ray, stopped, resumed, evaluated and served as in one process."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

import jobs
import pipeline
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.storage.local import Local
from tests.runtime.interrupted import END_S, Left, Training
from tests.runtime.small_cluster import ROOT, SmallCluster

pytestmark = pytest.mark.ray

STEPS = 20
WAIT_S = 180.0
ON_RAY = ("--executor", "ray", "--workers", "1")
SERIAL = ("--executor", "serial")

PARTS = """
from dataclasses import dataclass

import torch
from torch import nn

import pipeline
from pipeline.algorithms.maml import MAML
from pipeline.core.inner import SGD, unroll
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Task


class BoundedSGD(SGD):
    def step(self, phi, gradient, state, j):
        return super().step(phi, {name: leaf.tanh() for name, leaf in gradient.items()}, state, j)


class Bounded(MAML):
    def inner_trajectory(self, theta, support, context):
        fit, rule = self.support_loss(support, context), BoundedSGD(self.config.inner_lr)
        return unroll(fit, theta["model"], self.steps(context), rule, first_order=False)


class Residual(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.fc = nn.Linear(width * 36, outputs)

    def forward(self, x):
        return self.fc(torch.relu(x + self.inner(x)).flatten(1))


class Stripes:
    @dataclass(frozen=True)
    class Config:
        noise: float = 0.5

    splits, fingerprint = ("train", "val", "test"), "stripes"

    def __init__(self, config, shapes):
        self.config, self.shapes = config, shapes

    def spec(self):
        return Spec(Batch, (1, 6, 6), self.shapes.train.ways, "slots", "cross_entropy")

    def sample(self, ticket):
        rng, shape = ticket.rng("task"), self.shapes.of(ticket)
        columns = rng.normal(size=(shape.ways, 1, 1, 6))

        def examples(each):
            y = torch.arange(shape.ways).repeat_interleave(each)
            return Batch(torch.from_numpy(columns[y] + self.config.noise * rng.normal(size=(len(y), 1, 6, 6))), y)

        return Task(ticket.id, examples(shape.shots), examples(shape.queries), shape.ways)


pipeline.register("bounded", Bounded)
pipeline.register("stripes", Stripes)
"""

RECIPE = f"""
name: mine
seed: 3
steps: {STEPS}
tasks_per_step: 8
chunk_size: 2
algorithm: {{name: bounded, inner_lr: 0.2, inner_steps: 2, eval_inner_steps: 3}}
net: {{name: module, factory: 'my_parts:Residual', head: fc, arguments: {{width: 4}}}}
source: {{name: stripes}}
normalisation: support
task:
  train: {{ways: 3, shots: 1, queries: 2}}
  eval: {{ways: 3, shots: 1, queries: 3}}
outer:
  model: {{optimizer: adam, lr: 0.01}}
evaluation: {{tasks: 4}}
tracking: {{log_every: 1, report: false}}
"""

ELSEWHERE = """
import sys
import pipeline
from pipeline.core.failures import PipelineError

sys.path.append(sys.argv[1])
try:
    pipeline.train(sys.argv[1] + "/mine.yaml", executor="ray", address="local", output="run", plugins=["my_parts"])
except PipelineError as error:
    print(f"error: {error}")
"""


def write_parts(folder: Path, database: Path) -> None:
    """The plug-in, its recipe and an MLflow database, outside the checkout."""
    folder.mkdir(exist_ok=True)
    (folder / "my_parts.py").write_text(PARTS)
    (folder / "mine.yaml").write_text(RECIPE)
    shutil.copy(database, folder / "mlflow.db")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own with ``folder`` as its working directory."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def trained_alone(lab: Path) -> str:
    """The hash of theta where the recipe is trained in this process, which is in ``lab`` for that."""
    with contextlib.chdir(lab):
        alone = pipeline.train("mine.yaml", output="alone", plugins=["my_parts"])
    return str(alone.summary["theta_sha256"])


class Stopped(NamedTuple):
    """The folder with the plug-in, and what a run of it on a Ray worker left when it was asked to end."""

    folder: Path
    left: Left


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, migrated_mlflow) -> Stopped:
    """It is asked to end when it prints its first step."""
    folder = tmp_path_factory.mktemp("my_lab")
    write_parts(folder, migrated_mlflow)
    run = Training(folder, None, *ON_RAY, recipe=("mine.yaml", "--import", "my_parts"))
    try:
        run.wait_for("step ")
        return Stopped(folder, run.end(signal.SIGTERM))
    finally:
        run.kill()


@pytest.fixture
def mine(stopped, torch_threads, monkeypatch) -> Path:
    """This process is in that folder, and knows nothing of the plug-in yet."""
    monkeypatch.chdir(stopped.folder)
    monkeypatch.syspath_prepend(str(stopped.folder))
    return stopped.folder


@pytest.fixture
def job(monkeypatch, capfd):
    """Runs a job in this process: its code, and what it printed on stdout and stderr."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"jobs.{name}", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            jobs.run(importlib.import_module(f"jobs.{name}").main)
        return ended.value.code, *capfd.readouterr()

    return run


def test_a_run_on_ray_that_is_asked_to_end_keeps_its_last_step(stopped):
    left = stopped.left
    assert left.code == 128 + signal.SIGTERM
    assert left.checkpoint == left.journal > 0
    assert left.err.startswith(f"stopped by SIGTERM\nstep {left.journal} is kept; to go on, add --resume")
    assert left.seconds < END_S
    assert not left.orphans


def test_the_plug_in_has_forty_lines():
    """Blank ones are not counted."""
    assert len([line for line in PARTS.splitlines() if line]) <= 40


@pytest.mark.parametrize("name", ["evaluate", "train"])
def test_without_the_plug_in_one_line_names_it(mine, job, name):
    arguments = {"evaluate": ["run"], "train": ["mine.yaml", "--output", "run", "--resume"]}[name]
    code, _, err = job(name, *arguments, *SERIAL)
    assert (code, err) == (
        2,
        "error: run: was trained with plug-ins; add --import my_parts (in Python: plugins=['my_parts'])\n",
    )


def test_it_is_resumed_evaluated_and_served_with_the_bits_of_one_process(mine, job):
    done = Checkpoints(Local(mine / "run"), 1).steps()[-1]
    assert 0 < done < STEPS
    resumed = pipeline.train("mine.yaml", output="run", resume=True, plugins=["my_parts"]).summary
    assert resumed["steps"] == STEPS
    assert resumed["theta_sha256"] == trained_alone(mine)

    code, out, err = job("evaluate", "run", "--import", "my_parts", *SERIAL, "--json")
    assert code == 0, err
    assert json.loads(out)["theta_sha256"] == resumed["theta_sha256"]
    assert json.loads(out)["evaluation"] == resumed["evaluation"]

    learner = pipeline.load("run", plugins=["my_parts"])
    predictor = learner.adapt(np.eye(3).repeat(12, 1).reshape(3, 1, 6, 6), ["a", "b", "c"])
    x = np.random.default_rng(0).normal(size=(4, 1, 6, 6))
    assert predictor.outputs(x).shape == (4, 3)
    assert (predictor.outputs(x) == predictor.outputs(x)).all(), "dropout is on"
    assert {*predictor.predict(x)} <= {*"abc"}

    client = MlflowClient(f"sqlite:///{mine}/mlflow.db")
    tracked = client.get_run((mine / "run/tracked_run").read_text())
    assert tracked.data.tags["plugins"] == "my_parts"
    losses = client.get_metric_history(tracked.info.run_id, "train/loss")
    assert [point.step for point in losses] == list(range(1, STEPS + 1)), "written on Ray, and once"
    assert json.loads((mine / "run/plugins.json").read_text()) == ["my_parts"]


@pytest.mark.slow
def test_workers_without_the_plug_in_say_so_in_one_line(stopped, tmp_path):
    """The driver has it on a path of its own, which no worker knows; ``test_ray_faults`` has such a worker."""
    ended = python(tmp_path, "-c", ELSEWHERE, str(stopped.folder))
    assert ended.stdout == (
        "error: a worker could not start: --import my_parts: this machine has no module my_parts; start "
        "in the folder that holds it, or install it on every node\n"
    )


@pytest.fixture
def cluster():
    started = SmallCluster()
    yield started
    started.stop()


@pytest.mark.drill
def test_a_job_submitted_from_the_plug_in_s_folder(cluster, migrated_mlflow, tmp_path, torch_threads, monkeypatch):
    lab, run = tmp_path / "lab", tmp_path / "run"
    write_parts(lab, migrated_mlflow)
    monkeypatch.syspath_prepend(str(lab))
    stays = ["--output", str(run), f"tracking.uri=sqlite:///{lab}/mlflow.db"]
    job = cluster.submit("own", "mine.yaml", "--import", "my_parts", "--workers", "2", *stays, folder=lab)
    assert job.wait(WAIT_S) == 0, cluster.log("own")
    alone = trained_alone(lab)
    assert json.loads((run / "summary.json").read_text())["theta_sha256"] == alone


@pytest.mark.drill
def test_a_driver_outside_the_cluster_sends_its_plug_in(cluster, migrated_mlflow, tmp_path, torch_threads, monkeypatch):
    lab = tmp_path / "lab"
    write_parts(lab, migrated_mlflow)
    monkeypatch.syspath_prepend(str(lab))
    train = ["-m", "jobs.train", "mine.yaml", "--import", "my_parts", "--workers", "2", "--output", "run"]
    joined = subprocess.run(
        [sys.executable, *train, "--address", cluster.address],
        cwd=lab,
        env=cluster.environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert joined.returncode == 0, joined.stdout + joined.stderr
    alone = trained_alone(lab)
    assert json.loads((lab / "run/summary.json").read_text())["theta_sha256"] == alone
