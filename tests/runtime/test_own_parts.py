"""A plug-in outside the checkout: trained on Ray, stopped, resumed, evaluated and served, with the bits of one process.

Each part is a process of its own. What a plug-in registers would stay in this one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.storage.local import Local
from tests.runtime.small_cluster import ROOT, SmallCluster

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 40
WAIT_S = 180.0
ON_RAY = ("--executor", "ray", "--workers", "2")
SERIAL = ("--executor", "serial")

PARTS = '''
from dataclasses import dataclass

import torch
from torch import nn

import pipeline
from pipeline.core.losses import TaskLoss
from pipeline.core.source import Spec
from pipeline.core.types import About, Batch, Score, Task
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class BoundedConfig:
    bound: float = 0.1
    inner_steps: int = 2
    eval_inner_steps: int = 3


class Bounded(GradientBased):
    """No inner step moves a weight by more than the bound."""

    Config = BoundedConfig
    about = About("optimisation", "nobody 2026")

    def inner_trajectory(self, theta, support, context):
        phi, fit = theta["model"], self.support_loss(support, context)
        yield phi
        for j in range(self.steps(context)):
            gradient = torch.func.grad(fit)(phi, j)
            phi = {name: leaf - self.config.bound * torch.tanh(gradient[name]) for name, leaf in phi.items()}
            yield phi


class Residual(nn.Module):
    def __init__(self, width, outputs):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.dropout, self.fc = nn.BatchNorm2d(width), nn.Dropout(0.25), nn.Linear(width, outputs)

    def forward(self, x):
        h = self.stem(x)
        h = h + torch.relu(self.norm(self.inner(h)))
        return self.fc(self.dropout(h.mean((2, 3))))


def net(width, outputs):
    return Residual(width, outputs)


@dataclass(frozen=True)
class StripesConfig:
    noise: float = 0.5


class Stripes:
    """Pictures 1x6x6: each class has columns of its own, drawn with the task."""

    Config = StripesConfig
    splits = ("train", "val", "test")

    def __init__(self, config, shapes):
        self.config, self.shapes = config, shapes
        self.fingerprint = f"stripes {config.noise}"

    def spec(self):
        return Spec(Batch, (1, 6, 6), self.shapes.train.ways, "slots", "surprise")

    def sample(self, ticket):
        rng, shape = ticket.rng("task"), self.shapes.of(ticket)
        columns = rng.normal(size=(shape.ways, 1, 1, 6))

        def examples(each):
            y = torch.arange(shape.ways).repeat_interleave(each)
            x = columns[y] + self.config.noise * rng.normal(size=(len(y), 1, 6, 6))
            return Batch(torch.from_numpy(x), y)

        return Task(ticket.id, examples(shape.shots), examples(shape.queries), shape.ways)


def surprise(outputs, y):
    loss = -torch.log_softmax(outputs, -1).gather(-1, y.unsqueeze(-1)).mean()
    return Score(loss, {"bits": loss.detach() / 0.6931})


pipeline.register("bounded", Bounded)
pipeline.register("stripes", Stripes)
pipeline.register("surprise", TaskLoss(surprise, metric="bits", higher_is_better=False, unit="bits"))
'''

RECIPE = f"""
name: mine
seed: 3
steps: {STEPS}
tasks_per_step: 8
chunk_size: 2
algorithm: {{name: bounded, bound: 0.2}}
net: {{name: module, factory: 'my_parts:net', head: fc, arguments: {{width: 4}}}}
source: {{name: stripes}}
normalisation: support
task:
  train: {{ways: 3, shots: 1, queries: 2}}
  eval: {{ways: 3, shots: 1, queries: 3}}
outer:
  model: {{optimizer: adam, lr: 0.01}}
evaluation: {{tasks: 4}}
tracking: {{log_every: 1}}
"""

ALONE = """
import json
import pipeline

run = pipeline.train("mine.yaml", output="alone", plugins=["my_parts"])
print(json.dumps({"theta": run.summary["theta_sha256"], "metric": run.summary["evaluation"]["metric"]}))
"""

SERVED = """
import json
import numpy as np
import pipeline
from pipeline.core.failures import ConfigError

try:
    pipeline.load("run")
    refusal = None
except ConfigError as error:
    refusal = str(error)
learner = pipeline.load("run", plugins=["my_parts"])
predictor = learner.adapt(np.eye(3).repeat(12, 1).reshape(3, 1, 6, 6), ["a", "b", "c"])
x = np.random.default_rng(0).normal(size=(4, 1, 6, 6))
answers = [predictor.outputs(x) for _ in range(2)]
labels = predictor.predict(x)
known, same = {*labels} <= {*"abc"}, bool((answers[0] == answers[1]).all())
print(json.dumps({"refusal": refusal, "shape": answers[0].shape, "same": same, "known": known}))
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


def said(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The JSON of the last line."""
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


class Mine(NamedTuple):
    """A folder with the plug-in, and a run that was stopped after ``done`` steps, resumed and finished."""

    folder: Path
    done: int
    summary: dict[str, object]


def stop_after_a_step(folder: Path) -> None:
    """Train on two Ray workers, and ask the process to end when it prints its first step."""
    out = folder / "out"
    command = [sys.executable, "-m", "jobs.train", "mine.yaml", "--import", "my_parts", *ON_RAY, "--output", "run"]
    with out.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + WAIT_S
        while "step " not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.01)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM, out.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture(scope="module")
def mine(tmp_path_factory, migrated_mlflow):
    folder = tmp_path_factory.mktemp("my_lab")
    write_parts(folder, migrated_mlflow)
    stop_after_a_step(folder)
    done = Checkpoints(Local(folder / "run"), 1).steps()[-1]
    train = ["-m", "jobs.train", "mine.yaml", "--import", "my_parts", *ON_RAY, "--output", "run", "--resume"]
    resumed = python(folder, *train)
    assert resumed.returncode == 0, resumed.stderr
    return Mine(folder, done, json.loads((folder / "run/summary.json").read_text()))


def test_a_resumed_run_of_own_parts_has_the_bits_of_one_process(mine):
    alone = said(python(mine.folder, "-c", ALONE))
    assert 0 < mine.done < STEPS
    assert mine.summary["steps"] == STEPS
    assert alone == {"theta": mine.summary["theta_sha256"], "metric": "bits"}


def test_it_is_evaluated(mine):
    command = ["-m", "jobs.evaluate", "run", "--import", "my_parts", *SERIAL, "--json"]
    evaluated = python(mine.folder, *command)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads(evaluated.stdout)
    assert found["theta_sha256"] == mine.summary["theta_sha256"]
    assert found["evaluation"] == mine.summary["evaluation"]
    assert (found["evaluation"]["higher_is_better"], found["evaluation"]["unit"]) == (False, "bits")


def test_a_fresh_process_serves_it_once_the_plug_in_is_named(mine):
    served = said(python(mine.folder, "-c", SERVED))
    assert served.pop("refusal") == (
        "run: was trained with plug-ins; add --import my_parts (in Python: plugins=['my_parts'])"
    )
    assert served == {"shape": [4, 3], "same": True, "known": True}


@pytest.mark.parametrize(
    "job",
    [
        ["jobs.evaluate", "run", *SERIAL],
        ["jobs.train", "mine.yaml", *SERIAL, "--output", "run", "--resume"],
    ],
    ids=["evaluate", "resume"],
)
def test_without_the_plug_in_one_line_names_it(mine, job):
    refused = python(mine.folder, "-m", *job)
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: run: was trained with plug-ins; add --import my_parts (in Python: plugins=['my_parts'])\n"
    )


def test_mlflow_names_the_plug_in(mine):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{mine.folder}/mlflow.db")
    tracked = client.get_run((mine.folder / "run/tracked_run").read_text().strip())
    assert tracked.data.tags["plugins"] == "my_parts"
    assert json.loads((mine.folder / "run/plugins.json").read_text()) == ["my_parts"]


def test_workers_without_the_plug_in_say_so_in_one_line(mine, tmp_path):
    """The driver has it on a path of its own, which no worker knows."""
    ended = python(tmp_path, "-c", ELSEWHERE, str(mine.folder))
    assert ended.stdout == (
        "error: a worker could not start: ConfigError: --import my_parts: this machine has no module my_parts; start "
        "in the folder that holds it, or install it on every node\n"
    )


@pytest.fixture
def cluster():
    started = SmallCluster()
    yield started
    started.stop()


@pytest.mark.drill
def test_a_job_submitted_from_the_plug_in_s_folder(cluster, migrated_mlflow, tmp_path):
    lab, run = tmp_path / "lab", tmp_path / "run"
    write_parts(lab, migrated_mlflow)
    stays = ["--output", str(run), f"tracking.uri=sqlite:///{lab}/mlflow.db"]
    job = cluster.submit("own", "mine.yaml", "--import", "my_parts", "--workers", "2", *stays, folder=lab)
    assert job.wait(WAIT_S) == 0, cluster.log("own")
    alone = said(python(lab, "-c", ALONE))
    assert json.loads((run / "summary.json").read_text())["theta_sha256"] == alone["theta"]


@pytest.mark.drill
def test_a_driver_outside_the_cluster_sends_its_plug_in(cluster, migrated_mlflow, tmp_path):
    lab = tmp_path / "lab"
    write_parts(lab, migrated_mlflow)
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
    alone = said(python(lab, "-c", ALONE))
    assert json.loads((lab / "run/summary.json").read_text())["theta_sha256"] == alone["theta"]
