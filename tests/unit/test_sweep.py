"""Sweeps from end to end in this process: one parent, each child once, chosen on validation, resumed and refused."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

import jobs
from pipeline import config
from pipeline.core.failures import ConfigError, ResumeError, Stopped
from pipeline.engine.loop import Enough
from pipeline.runs.run import RunOptions, train_run
from pipeline.storage import storage_at
from pipeline.sweeps import training
from pipeline.sweeps.children import load
from pipeline.sweeps.request import Request
from pipeline.sweeps.sweep import sweep
from tests.in_mlflow import check_metrics
from tests.quiet_runs import Onlooker
from tests.runtime.sweeping import CHILDREN, SMALL, VARIED, problems

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture
def swept(tmp_path, mlflow_uri):
    """``sweep`` of a small recipe in this process, with what it said."""

    def go(*varied, resume=False, tell=None, **asked):
        lines: list[str] = []
        request = Request("sinusoid_maml", (*varied, *SMALL, f"tracking.uri={mlflow_uri}"), **asked)
        options = RunOptions("serial", output=tmp_path / "sweep", resume=resume)
        return sweep(request, options, tell or lines.append), lines

    return go


def ctrl_c(line):
    if line.startswith("child "):
        raise KeyboardInterrupt


def runs_in(uri):
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("metafleet").experiment_id])
    return {run.info.run_name: run for run in found}


@pytest.mark.parametrize(
    ("varied", "count"), [(VARIED[:1], 3), pytest.param(VARIED, CHILDREN, marks=pytest.mark.slow)], ids=["3", "12"]
)
def test_a_sweep_that_is_interrupted_and_resumed_has_each_child_once(
    swept, mlflow_uri, tmp_path, monkeypatch, varied, count
):
    """Once between two children, once in the middle of one, and once where a trained child was not recorded."""

    with pytest.raises(KeyboardInterrupt):
        swept(*varied, tell=ctrl_c)
    assert runs_in(mlflow_uri)["sweep sinusoid_maml"].info.status == "KILLED"
    with monkeypatch.context() as patch:
        patch.setattr(training._Listener, "step", lambda self, step, *rest: step == 3 and signal.raise_signal(15))
        with pytest.raises(Stopped) as stopped:
            swept(*varied, resume=True)
    assert stopped.value.__notes__ == [f"to go on, add --resume --output {tmp_path / 'sweep'} to the same command"]
    (tmp_path / "sweep" / "children" / "0001.json").unlink()
    result, lines = swept(*varied, resume=True)
    assert not problems(mlflow_uri, tmp_path / "sweep", count)
    assert [one.number for one in result.children] == list(range(1, count + 1))
    assert sum(line.startswith("child ") for line in lines) == count
    again, lines = swept(*varied, resume=True)
    assert lines == [f"{count} of {count} children ended before; they are not trained again"]
    assert again.children == result.children
    assert again.evaluation == result.evaluation
    assert not problems(mlflow_uri, tmp_path / "sweep", count)
    _shows_the_sweep(runs_in(mlflow_uri), result, mlflow_uri)
    _is_repeated_by_its_command(result, tmp_path / "alone")


def _shows_the_sweep(runs, result, uri):
    """The parent has the space, the best child's scores on test tasks, the table and the picture."""
    parent, best = runs["sweep sinusoid_maml"], result.best
    assert parent.data.params["varied.outer.model.lr"] == "1e-3,3e-3,1e-2"
    assert parent.data.tags["sweep.best"] == str(best.number)
    assert parent.data.tags["sweep.best_run"] == runs[f"sinusoid_maml-{best.number:03d}"].info.run_id
    assert parent.data.tags["mlflow.note.content"].count("| finished |") == len(result.children)
    last = [row for row in result.evaluation["rows"] if row["theta"] == "last"][-1]
    assert parent.data.metrics["eval/last/mse/after_2_steps"] == last["mean"]
    client = MlflowClient(uri)
    files = {one.path for one in client.list_artifacts(parent.info.run_id, "sweep")}
    assert files == {f"sweep/{name}" for name in ("children.csv", "children.json", "sweep.png")}
    points = client.get_metric_history(parent.info.run_id, "children/mse")
    assert {(one.step, one.value) for one in points} == {(one.number, one.score) for one in result.children}


def _is_repeated_by_its_command(result, folder):
    """The best by validation tasks, and the test scores that it has alone."""
    scores = {one.number: one.score for one in result.children}
    assert scores[result.best.number] == min(scores.values())
    assert result.evaluation["split"] == "test"
    for number in scores:
        summary = json.loads((result.folder / f"sinusoid_maml-{number:03d}" / "summary.json").read_text())
        assert summary["evaluation"]["split"] == "val"
    words = shlex.split(result.command)
    assert words[:4] == ["python", "-m", "jobs.train", "sinusoid_maml"]
    alone = train_run(config.load(words[3], words[4:]), RunOptions("serial", output=folder), Onlooker())
    assert alone.summary["evaluation"]["rows"] == result.evaluation["rows"]


@pytest.fixture
def job(tmp_path, monkeypatch, capfd, migrated_mlflow):
    """``jobs.sweep`` in an empty folder: its exit code and what it printed."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def go(*arguments):
        monkeypatch.setattr(sys, "argv", ["jobs.sweep", "sinusoid_maml", *arguments, "--executor", "serial"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            jobs.run(importlib.import_module("jobs.sweep").main)
        return (ended.value.code, *capfd.readouterr())

    return go


def test_a_child_that_fails_is_recorded_and_the_sweep_goes_on(job, migrated_mlflow, tmp_path):
    shutil.copy(migrated_mlflow, "mlflow.db")
    code, out, err = job("outer.model.lr=1e6,1e-2", "task.train.shots=5", *SMALL, "--output", "swept")
    assert code == 10
    assert err == "error: 1 of 2 children failed: 1; the table has their reasons, the others are whole\n"
    assert "child 1/2  outer.model.lr=1e6  failed (NonFiniteError: step " in out
    assert "| 1 | 1e6 | – |" in out
    assert "Child 2, outer.model.lr=1e-2, was chosen of 2 on validation tasks" in out
    assert "repeat it  python -m jobs.train sinusoid_maml task.train.shots=5 steps=6" in out
    statuses = {name: run.info.status for name, run in runs_in("sqlite:///mlflow.db").items()}
    assert statuses == {
        "sweep sinusoid_maml": "FINISHED",
        "sinusoid_maml-001": "FAILED",
        "sinusoid_maml-002": "FINISHED",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["outer.model.lr=1e-3,-1"],
            "child with outer.model.lr=-1: recipe sinusoid_maml: outer.model.lr: expected",
        ),
        (["outer.model.lrr=1,2"], "child with outer.model.lrr=1: recipe sinusoid_maml: outer.model.lrr: unknown key"),
        (["steps=1,two"], "child with steps=two: recipe sinusoid_maml: steps: expected a whole number"),
        (["chunk_size=int:1:4", "--search", "random", "--samples", "9"], "child with chunk_size=3: "),
        (["outer.model.lr=log:1e-4:1e7", "--search", "optuna", "--samples", "9"], "child with outer.model.lr=1e+07: "),
        (["steps=1,2", "net.hiden=[4]"], "net.hiden: unknown key, did you mean hidden?"),
        (["steps=1,2", "--resume"], "--resume: no sweep of sinusoid_maml under"),
        (["steps=1,2", "tracking.uri=mlruns"], "no file store"),
    ],
)
def test_what_is_refused_is_one_line_before_anything_starts(job, arguments, message):
    code, out, err = job(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_a_sweep_is_resumed_with_the_same_request_and_not_begun_twice(swept):
    rates = "outer.model.lr=1e-3,1e-2"
    with pytest.raises(KeyboardInterrupt):
        swept(rates, tell=ctrl_c)
    with pytest.raises(ConfigError, match="already holds a sweep; pass --resume to continue it"):
        swept(rates)
    with pytest.raises(
        ResumeError, match=r"was begun with other values, arguments: .*=1e-3,1e-2.*=1e-3,1e-1"
    ) as raised:
        swept("outer.model.lr=1e-3,1e-1", resume=True)
    assert "\n" not in str(raised.value)
    result, lines = swept(rates, "workers.count=1", resume=True)
    assert "1 of 2 children ended before; they are not trained again" in lines
    assert len(result.children) == 2


BEHIND = ("algorithm.inner_lr=0.01,0.011,0.012,0.013,1.5",)


@pytest.mark.slow  # the rule alone is tested every day
def test_a_child_that_is_behind_is_stopped_and_a_resumed_sweep_decides_alike(swept, mlflow_uri, tmp_path):
    result, lines = swept(*BEHIND, stop=True)
    last = result.children[-1]
    assert (last.state, last.step) == ("stopped", 2)
    assert "median of 4 earlier children" in last.reason
    assert lines[-1].startswith("child 5/5  algorithm.inner_lr=1.5  stopped (mse ")
    run = runs_in(mlflow_uri)["sinusoid_maml-005"]
    assert (run.info.status, run.data.tags["sweep.state"]) == ("FINISHED", "stopped")
    assert run.data.metrics["val/mse/after_2_steps"] == last.score
    (tmp_path / "sweep" / "children" / "0005.json").unlink()  # as if it was killed before that
    again, _ = swept(*BEHIND, stop=True, resume=True)
    assert (again.children[-1].state, again.children[-1].reason) == ("stopped", last.reason)
    assert len(load(storage_at(tmp_path / "sweep"))) == 5
    assert len(runs_in(mlflow_uri)) == 6


def test_a_run_that_a_listener_ends_is_finished_in_mlflow_and_goes_on_when_asked(mlflow_uri, tmp_path):
    def enough(step):
        if step == 3:
            raise Enough

    recipe = config.load("sinusoid_maml", [*SMALL, f"tracking.uri={mlflow_uri}"])
    options = RunOptions("serial", output=tmp_path / "run")
    with pytest.raises(Enough):
        train_run(recipe, options, Onlooker(enough))
    (run,) = runs_in(mlflow_uri).values()
    assert (run.info.status, run.data.tags["step"]) == ("FINISHED", "3")
    resumed = train_run(recipe, options._replace(resume=True), Onlooker())
    whole = train_run(recipe, options._replace(output=tmp_path / "whole"), Onlooker())
    assert resumed.summary["theta_sha256"] == whole.summary["theta_sha256"]
    assert not check_metrics(tmp_path / "run", mlflow_uri)
