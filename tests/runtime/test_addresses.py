"""Which cluster a run joins: the one that was named, else the one its process belongs to, else a Ray of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.failures import ClusterError
from pipeline.runtime.cluster import Workers, connect, join
from pipeline.runtime.job import MARK, cluster_address

ROOT = Path(__file__).parents[2]
ENDED_S = 60.0
"""Far less than the 300 s that a run waits for a first worker."""


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, "local"),
        (None, {MARK: "{}"}, "auto"),
        (None, {"RAY_ADDRESS": "head:6379"}, "head:6379"),
        (None, {"RAY_ADDRESS": "head:6379", MARK: "{}"}, "head:6379"),
        ("local", {"RAY_ADDRESS": "head:6379", MARK: "{}"}, "local"),
        ("other:6379", {"RAY_ADDRESS": "head:6379"}, "other:6379"),
    ],
)
def test_the_address_of_a_run(monkeypatch, given, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cluster_address(given) == expected


@pytest.mark.parametrize("given", ["http://127.0.0.1:8265", "head", "head:port"])
def test_what_is_no_address_of_a_head_is_named_with_where_it_was_given(monkeypatch, given):
    with pytest.raises(ClusterError, match=r"^--address '.*': expected HOST:PORT of a Ray head"):
        join(given)
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(ClusterError, match=r"^RAY_ADDRESS '.*': expected HOST:PORT of a Ray head"):
        join(cluster_address(None))


def test_an_address_where_nobody_listens_is_told_with_the_way_out():
    with pytest.raises(
        ClusterError, match="^--address '127.0.0.1:1': no Ray head answers at 127.0.0.1:1.*ray start --head"
    ):
        join("127.0.0.1:1")


@pytest.mark.ray
def test_a_process_that_is_in_a_cluster_takes_no_other(ray_local, monkeypatch):
    joined = ray_local.get_runtime_context().gcs_address
    port = joined.rpartition(":")[2]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # what stands in the environment asks for nothing
    for address in (None, "auto", "local", joined, f"localhost:{port}", f"127.0.0.1:{port}"):
        assert connect(address, Workers(1, 0.0)) is False
    for address in (f"127.0.0.1:{int(port) - 1}", f"192.0.2.77:{port}", "nowhere"):
        with pytest.raises(ClusterError, match=rf"'{address}': this process has joined the Ray at {joined}; leave"):
            connect(address, Workers(1, 0.0))


@pytest.mark.ray
@pytest.mark.slow
def test_a_runtime_environment_that_cannot_be_set_up_ends_a_run_at_once(migrated_mlflow, tmp_path):
    """As in a Ray job that was told to start a Ray of its own: its working directory lies in the cluster's.

    ``test_ray_faults`` shows every day what is made of Ray's error.
    """
    (tmp_path / "mlflow.db").write_bytes(migrated_mlflow.read_bytes())
    working_dir = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip"}}
    command = [
        "jobs.train",
        "sinusoid_maml",
        "steps=2",
        "tracking.report=false",
        "--workers",
        "1",
        "--address",
        "local",
    ]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *command, "--output", tmp_path / "run", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"],
        cwd=tmp_path,
        env=os.environ | {MARK: json.dumps(working_dir)},
        capture_output=True,
        text=True,
        timeout=ENDED_S,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - began < ENDED_S
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: Ray could not set up this job's runtime environment: ")
    assert "Traceback" not in done.stderr
