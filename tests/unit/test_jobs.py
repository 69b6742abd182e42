"""The command line: help at once, one line for each mistake with nothing written, and a run from end to end."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

import jobs
from pipeline.engine.numerics import processor
from pipeline.runtime.job import MARK
from tests.runtime import leftovers

JOBS = ("train", "evaluate", "ingest", "serve", "sync", "doctor")
BACKENDS = {"torch", "ray", "mlflow", "pyarrow"}


class Ended(NamedTuple):
    """How a job ended."""

    code: int
    out: str
    err: str


def in_a_process(*command, cwd, **environment) -> Ended:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """Runs a job in this process and an empty folder: what a new process adds is seconds of imports."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def job(name, *arguments) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"jobs.{name}", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            jobs.run(importlib.import_module(f"jobs.{name}").main)
        return Ended(ended.value.code, *capfd.readouterr())

    return job


def says_one_line(ended: Ended, code: int, *parts: str) -> None:
    assert ended.code == code, ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    for part in parts:
        assert part in ended.err


@pytest.mark.parametrize("job", JOBS)
def test_help_answers_at_once(job, tmp_path):
    """It imports nothing that takes seconds."""
    ended = in_a_process("-X", "importtime", "-m", f"jobs.{job}", "--help", cwd=tmp_path)
    assert ended.code == 0
    assert f"python -m jobs.{job}" in ended.out
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in ended.err.splitlines() if "|" in line}
    assert "argparse" in imported
    assert not imported & BACKENDS


MISTAKES = [
    ("misspelt key", ["algorithm.inner_lrr=0.02"], ["algorithm.inner_lrr: unknown key, did you mean inner_lr?"]),
    ("misspelt key above", ["sinusoid_maml", "stepss=5"], ["stepss: unknown key, did you mean steps?"]),
    ("text for a number", ["steps=five"], ["steps: ", "'five'"]),
    ("a fraction of a step", ["steps=2.5"], ["steps: ", "2.5"]),
    ("true for a number", ["algorithm.inner_lr=true"], ["algorithm.inner_lr: ", "True"]),
    ("not positive", ["steps=0"], ["steps: ", "expected more than 0"]),
    ("not finite", ["outer.model.lr=.inf"], ["outer.model.lr: "]),
    ("not a power of two", ["chunk_size=3"], ["chunk_size: expected a power of two"]),
    (
        "unknown algorithm",
        ["algorithm.name=mamll"],
        ["algorithm.name: unknown algorithm 'mamll'", "did you mean maml?"],
    ),
    ("no value", ["sinusoid_maml", "steps"], ["'steps': expected key=value"]),
    ("unknown recipe", ["sinusoid_mamll"], ["'sinusoid_mamll'", "did you mean sinusoid_maml?"]),
    ("a recipe that is not there", ["mine.yaml"], ["recipe mine.yaml: cannot be read"]),
    ("no data", ["omniglot_protonet_5w1s"], ["source.path: ", "does not exist", "python -m jobs.ingest"]),
    (
        "parts that do not fit",
        ["algorithm={name: protonet}"],
        ["source.name: sinusoid gives values as training targets", "protonet learns slots"],
    ),
    ("a folder for MLflow", ["tracking.uri=mlruns"], ["tracking.uri", "no file store"]),
    ("nothing to resume", ["--resume"], ["--resume: no run of sinusoid_maml"]),
    ("nothing to resume there", ["--resume", "--output", "there"], ["--resume: ", "there holds no run"]),
]


@pytest.mark.parametrize(("arguments", "parts"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_ends_in_one_line_and_nothing_is_written(here, tmp_path, arguments, parts):
    ended = here("train", *arguments, "--executor", "serial")
    says_one_line(ended, 2, *parts)
    assert ended.out == "", "what refuses a run stands alone"
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_gpu_that_this_process_lacks_is_refused(here, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    says_one_line(here("train", "workers.gpus=0.5", "--executor", "serial"), 2, "workers.gpus: 0.5", "sees no GPU")
    assert list((tmp_path / "cwd").iterdir()) == []


def test_two_mistakes_are_told_together(here):
    ended = here("train", "stepss=5", "seed=-1")
    assert ended.code == 2
    assert ended.err.startswith("error: recipe sinusoid_maml has ")
    assert "stepss" in ended.err
    assert "seed" in ended.err


def test_an_output_that_is_a_file_is_named(here, tmp_path):
    (tmp_path / "notes").write_text("mine")
    says_one_line(here("train", "steps=2", "--executor", "serial", "--output", tmp_path / "notes"), 2, "--output")
    assert (tmp_path / "notes").read_text() == "mine"


def test_options_may_stand_between_overrides(here, tmp_path):
    ended = here("train", "sinusoid_maml", "--executor", "serial", "steps=0")
    says_one_line(ended, 2, "steps: ")


def test_evaluate_needs_a_run(here, tmp_path):
    says_one_line(here("evaluate", "nowhere"), 2, "nowhere: no run")
    says_one_line(here("evaluate", tmp_path, "steps=2"), 2, "no run")


def test_sync_needs_a_run(here):
    says_one_line(here("sync", "nowhere"), 2, "nowhere: no run")


def test_ingest_needs_images(here, tmp_path):
    says_one_line(here("ingest", "folder", "nowhere"), 2, "nowhere")
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.slow
def test_a_mistake_in_a_process_of_its_own(tmp_path):
    """As a person meets it: nothing that an import prints stands beside the line, as with a run from end to end."""
    ended = in_a_process("-m", "jobs.train", "sinusoid_maml", "algorithm.inner_lrr=0.02", cwd=tmp_path)
    says_one_line(ended, 2, "did you mean inner_lr?")
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_address_where_nobody_listens_ends_in_one_line_and_nothing_is_written(tmp_path):
    """In a process of its own: a Ray that is up in this one would be joined. ``test_addresses`` asks the function."""
    ended = in_a_process("-m", "jobs.train", "steps=2", "--address", "127.0.0.1:1", cwd=tmp_path)
    says_one_line(ended, 3, "--address '127.0.0.1:1': no Ray head answers at 127.0.0.1:1", "ray start --head")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def before():
    """What was in shared memory before ``trained``."""
    return leftovers.shared()


@pytest.fixture(scope="module")
def trained(before, migrated_mlflow, tmp_path_factory):
    """A run of five steps, made by a process of its own: its working folder, and what was printed."""
    cwd = tmp_path_factory.mktemp("trained")
    shutil.copy(migrated_mlflow, cwd / "mlflow.db")
    arguments = ["steps=5", "evaluation.tasks=20", "--executor", "serial", "--output", "run"]
    return cwd, in_a_process("-m", "jobs.train", *arguments, cwd=cwd, **{leftovers.MARK: str(cwd)})


def test_a_run_from_end_to_end(trained):
    cwd, ended = trained
    assert (ended.code, ended.err) == (0, "")
    assert {path.name for path in cwd.iterdir()} == {"run", "mlflow.db", "mlartifacts"}
    summary = json.loads((cwd / "run" / "summary.json").read_text())
    assert {"steps", "theta_sha256", "tasks_per_s", "wall_s", "evaluation"} <= set(summary)
    assert summary["device"]
    assert summary["cpu"] == processor()
    assert (summary["recipe"], summary["steps"], summary["executor"]) == ("sinusoid_maml", 5, "serial")
    assert {"split", "tasks", "hash", "normalisation", "ways", "shots", "queries", "rows"} <= set(summary["evaluation"])
    assert [row["point"] for row in summary["evaluation"]["rows"]] == list(range(11))
    assert "step 5/5" in ended.out
    assert "before adaptation" in ended.out
    for row in summary["evaluation"]["rows"]:
        assert f"{row['mean']:.3f} ± {row['ci95']:.3f}" in ended.out
    assert summary["theta_sha256"] in ended.out
    assert str(cwd / "run" / "summary.json") in ended.out
    assert f"mlflow ui --backend-store-uri sqlite:///{cwd / 'mlflow.db'}" in ended.out
    assert (cwd / "run" / "tracked_run").read_text() in ended.out
    assert "?workflowType=machine_learning" in ended.out


@pytest.mark.fault("F29")
def test_a_run_leaves_its_results_and_nothing_else(before, trained):
    """``journal.sent`` notes how far MLflow has the metrics of a run while it goes on: this one is too short for it."""
    cwd, _ = trained
    drawn = {f"pictures/{name}.png" for name in ("adaptation", "training", "gradients", "fits", "workers")}
    ended = {"summary.json", "scores.json", "description.md"} | drawn
    leftovers.check(cwd / "run", str(cwd), before, leftovers.RUN - {"journal.sent"} | ended)


def test_a_folder_that_holds_a_run_is_not_written_over(trained, here):
    cwd, _ = trained
    before = sorted((path, path.stat().st_mtime_ns) for path in (cwd / "run").rglob("*"))
    ended = here("train", "steps=5", "--executor", "serial", "--output", cwd / "run")
    says_one_line(ended, 2, "--output: ", "already holds a run", "--resume")
    assert sorted((path, path.stat().st_mtime_ns) for path in (cwd / "run").rglob("*")) == before


@pytest.fixture
def resume(trained, here, tmp_path):
    """Resumes a copy of the run, with changes: how that ended, the copy's folder and the status of its MLflow run."""
    from mlflow.tracking import MlflowClient

    folder = shutil.copytree(trained[0] / "run", tmp_path / "copy")
    database = shutil.copy(trained[0] / "mlflow.db", tmp_path / "mlflow.db")
    uri = f"sqlite:///{database}"

    def resumed(*changes):
        options = ("--executor", "serial", "--resume", "--output", folder)
        ended = here("train", "steps=5", "evaluation.tasks=20", f"tracking.uri={uri}", *changes, *options)
        run = (folder / "tracked_run").read_text()
        return ended, folder, MlflowClient(tracking_uri=uri).get_run(run)

    return resumed


def test_a_finished_run_that_is_resumed_ends_as_it_did(trained, resume):
    ended, folder, run = resume()
    assert (ended.code, ended.err) == (0, "")
    hashes = [json.loads((one / "summary.json").read_text())["theta_sha256"] for one in (trained[0] / "run", folder)]
    assert hashes[0] == hashes[1] == run.data.tags["theta_sha256"]
    assert run.info.status == "FINISHED"


def test_a_resume_with_another_recipe_is_refused_and_the_run_stays_as_it_was(trained, resume):
    ended, folder, run = resume("seed=2")
    says_one_line(ended, 2, "was begun with other values: seed: 1 -> 2 (refused)")
    assert (folder / "recipe.yaml").read_text() == (trained[0] / "run" / "recipe.yaml").read_text()
    assert run.info.status == "FINISHED"


def test_evaluate_scores_a_run_on_other_tasks(trained, here):
    cwd, _ = trained
    summary = json.loads((cwd / "run" / "summary.json").read_text())
    same = here("evaluate", cwd / "run", "--executor", "serial", "--json")
    assert (same.code, same.err) == (0, "")
    assert json.loads(same.out)["evaluation"] == summary["evaluation"]
    assert json.loads(same.out)["theta_sha256"] == summary["theta_sha256"]
    other = here("evaluate", cwd / "run", "evaluation.tasks=10", "task.eval.shots=5", "--executor", "serial")
    assert other.code == 0
    assert "test split, 10 tasks: 5-shot" in other.out
    assert "before adaptation" in other.out
    says_one_line(here("evaluate", cwd / "run", "evaluation.taskss=10"), 2, "did you mean tasks?")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--output is missing: name a folder", "tracking.uri 'sqlite:///mlflow.db' is relative: write http://"]),
        (["--output", "runs/first", "tracking.uri=http://head:5000"], ["--output 'runs/first' is relative: name"]),
        (["--resume", "tracking.uri=http://head:5000"], ["--output is missing"]),
        (["--output", "/shared/runs/first"], ["tracking.uri 'sqlite:///mlflow.db' is relative"]),
        (
            ["omniglot_maml_5w1s", "--output", "/shared/runs/first", "tracking.uri=http://head:5000"],
            ["source.path 'data/omniglot.arrow' is relative"],
        ),
    ],
    ids=["neither", "output", "resume", "tracking", "data"],
)
def test_a_ray_job_needs_paths_that_outlive_it(here, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.setenv(MARK, "{}")
    ended = here("train", *arguments, "--executor", "serial")
    says_one_line(ended, 2, "Ray deletes a job's working directory when the job ends", *parts)
    assert ended.err.count(" is ") == len(parts)
    assert list((tmp_path / "cwd").iterdir()) == []
