"""The doctor: each check fails where it should, on real things, and says what to do."""

from __future__ import annotations

import re
import socket
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import jobs
from jobs import doctor as job
from pipeline.config import load
from pipeline.runs import doctor
from pipeline.runs.report import findings_table
from pipeline.runtime.cluster_info import open_to_all
from tests.mlflow_server import Answering, answering

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def closed_port():
    """A port that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_floors_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = dict(
        re.fullmatch(r"(\w+)(?:\[\w+\])?>=([\d.]+)", one).groups() for one in project["dependencies"] if ">=" in one
    )
    stated["python"] = project["requires-python"].removeprefix(">=")
    assert {package: stated[package] for package in doctor.FLOORS} == doctor.FLOORS


@pytest.mark.parametrize("package", doctor.FLOORS)
def test_what_is_installed_is_new_enough(package):
    assert doctor.check_version(package, doctor.installed(package), doctor.FLOORS[package]).good


@pytest.mark.parametrize(
    ("version", "floor", "good"),
    [
        ("2.9.1", "2.10", False),
        ("2.10.0+cpu", "2.10", True),
        ("3", "2.55", True),
        ("2", "2.0", False),
        (None, "1", False),
    ],
)
def test_versions_are_compared_as_numbers(version, floor, good):
    found = doctor.check_version("torch", version, floor)
    assert found.good == good
    assert found.fix == f"pip install 'torch>={floor}'"


def test_a_package_that_is_missing_is_named():
    assert doctor.installed("metafleet-nobody-has-this") is None
    assert "not installed" in doctor.check_version("ray", None, "2.55").found


@pytest.mark.parametrize(
    ("changes", "cpus", "gpus", "fix"),
    [
        (["workers.count=8"], 4, 0, "--workers 4, which gives the same result, or more nodes"),
        (["workers.count=2"], 0, 0, "more nodes: a run needs a CPU"),
        (["workers.count=2", "workers.gpus=1"], 16, 1, "--workers 1, which gives the same result, or more nodes"),
        (["workers.count=2", "workers.gpus=0.5"], 16, 0, "nodes with GPUs, or workers.gpus=0 numerics.device=cpu"),
    ],
)
def test_too_few_cpus_or_gpus(changes, cpus, gpus, fix):
    found = doctor.check_resources(load("sinusoid_maml", changes), cpus, gpus)
    assert (found.good, found.fix) == (False, fix)


def test_enough_cpus_and_gpus():
    recipe = load("sinusoid_maml", ["workers.count=4", "workers.gpus=0.5"])
    assert doctor.check_resources(recipe, 4, 2).good


def test_more_threads_than_cpus():
    recipe = load("sinusoid_maml", ["workers.count=2", "numerics.threads=4"])
    assert doctor.check_threads(recipe, 8).good
    found = doctor.check_threads(recipe, 7)
    assert not found.good
    assert "numerics.threads=1" in found.fix


class Open(Answering):
    """A dashboard that takes anybody's jobs."""

    def answer(self) -> tuple[int, str, bytes]:
        return 200, "application/json", b"[]"


class Guarded(Answering):
    """One that asks for a token."""

    def answer(self) -> tuple[int, str, bytes]:
        return 401, "text/plain", b"who?"


def test_a_dashboard_that_answers_without_a_token_lets_anybody_run_anything(closed_port):
    with ExitStack() as servers:
        ports = [servers.enter_context(answering(kind)).server_port for kind in (Open, Guarded)] + [closed_port]
        dashboards = [*(f"127.0.0.1:{port}" for port in ports), ""]
        found = [doctor.check_guard(dashboard, open_to_all) for dashboard in dashboards]
    assert [one.good for one in found] == [False, True, False, True]
    assert "takes jobs from anybody" in found[0].found
    assert "RAY_AUTH_MODE=token" in found[0].fix
    assert found[2].fix == f"open port {closed_port} to this machine"


def test_a_token_that_others_can_read(tmp_path):
    token = tmp_path / "auth_token"
    assert doctor.check_token_file(token).good
    token.write_text("secret")
    token.chmod(0o644)
    found = doctor.check_token_file(token)
    assert (found.good, found.fix) == (False, f"chmod 600 {token}")
    assert "secret" not in findings_table([found])
    token.chmod(0o600)
    assert doctor.check_token_file(token).good


def test_an_mlflow_that_nobody_runs(closed_port, tmp_path):
    found = doctor.check_tracking(f"http://me:hunter2@127.0.0.1:{closed_port}", "metafleet")
    assert not found.good
    assert found.fix.startswith("start one with mlflow server")
    assert "hunter2" not in findings_table([found])
    here = doctor.check_tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", "metafleet")
    assert (here.good, here.found) == (True, f"sqlite:///{tmp_path / 'mlflow.db'}, experiment metafleet")
    assert not doctor.check_tracking(f"sqlite:///{tmp_path / 'nowhere' / 'mlflow.db'}", "metafleet").good


def test_an_experiment_that_was_deleted(mlflow_uri):
    client = MlflowClient(tracking_uri=mlflow_uri)
    client.delete_experiment(number := client.create_experiment("mine"))
    found = doctor.check_tracking(mlflow_uri, "mine")
    assert (found.good, found.found) == (False, f"tracking.experiment 'mine' at {mlflow_uri} was deleted")
    assert found.fix.endswith(f"MLFLOW_TRACKING_URI={mlflow_uri} mlflow experiments restore --experiment-id {number}")
    assert doctor.check_tracking(mlflow_uri, "another").good


def test_a_disk_that_is_full_or_an_output_that_is_a_file(tmp_path):
    new = str(tmp_path / "runs" / "new")
    assert doctor.check_disk(new, 0.0).good
    full = doctor.check_disk(new, 1e9)
    assert not full.good
    assert full.fix == f"make room in {new}, or name another --output"
    (tmp_path / "notes").write_text("mine")
    assert not doctor.check_disk(str(tmp_path / "notes" / "new")).good


def test_an_output_that_is_a_uri(tmp_path):
    assert doctor.check_disk(f"file://{tmp_path}/runs").good
    assert not doctor.check_disk("file:///proc/nowhere/runs").good


@pytest.fixture
def doctor_says(tmp_path, monkeypatch, capsys):
    """Runs the job here, in an empty folder: its exit code and its lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))

    def says(*arguments):
        monkeypatch.setattr(sys, "argv", ["jobs.doctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            jobs.run(job.main)
        return ended.value.code, capsys.readouterr().out.splitlines()

    return says


def test_a_healthy_machine(doctor_says):
    code, lines = doctor_says("workers.count=1")
    assert code == 0, lines
    assert all(line.startswith("ok") for line in lines[2:])
    for check in (*doctor.FLOORS, "CPUs and GPUs", "threads", "token file", "MLflow", "disk"):
        assert any(f" {check} " in line for line in lines), check


def test_what_fails_stands_beside_its_fix(doctor_says, closed_port):
    """The address in a process without Ray: nobody answers there, which is seen before Ray is asked."""
    code, lines = doctor_says("--address", f"127.0.0.1:{closed_port}", f"tracking.uri=http://127.0.0.1:{closed_port}")
    assert code == 3
    failed = [line for line in lines if line.startswith("FAIL")]
    assert len(failed) == 2
    assert re.search(r"cluster +--address .* no Ray head answers .* start one with ray start --head", failed[0])
    assert re.search(r"MLflow +tracking.uri .* no connection +start one with mlflow server", failed[1])
