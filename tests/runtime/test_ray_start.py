"""A Ray that cannot start on this machine is told in one line that names the folder or the limit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.runtime import cluster

pytestmark = pytest.mark.ray

START = """
from pipeline.core.failures import ClusterError
from pipeline.runtime.cluster import Workers, connect
try:
    connect("local", Workers(1, 0.0))
except ClusterError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variable", "below", "fix"),
    [
        ("RAY_TMPDIR", "x" * 110, "Set RAY_TMPDIR to a shorter path"),
        ("RAY_TMPDIR", "file/folder", "name folders that can be written"),
        ("HOME", "file/folder", "name folders that can be written"),
    ],
    ids=["too long", "temporary folder", "home"],
)
def test_a_folder_that_ray_cannot_use(tmp_path, variable, below, fix):
    (tmp_path / "file").write_text("no folder can be made below it, by root neither")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=kept | {variable: str(tmp_path / below)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.count("\n") == 1, done.stdout
    assert done.stdout.startswith("Ray could not be started on this machine: ")
    assert fix in done.stdout
    assert "Traceback" not in done.stderr


def test_a_limit_of_address_space_is_named(monkeypatch):
    # The Ray of this session is a child of this process too, and later tests need it.
    monkeypatch.setattr(cluster, "stop_local_raylet", lambda: None)
    monkeypatch.setattr(cluster, "_memory_limit", lambda: 3_000_000_000)
    message = r"timed out. ulimit -v allows 3\.0 GB of address space"
    with pytest.raises(cluster.ClusterError, match=message) as raised, cluster._told():
        raise RuntimeError("the node timed out")
    assert "\n" not in str(raised.value)
