"""What several test files share: one local Ray, one migrated MLflow database, one small image file."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Read when ray and mlflow are imported, and by every process that a test starts. The token is Ray's own way to keep
# other users of this machine out; given here, it is written to no file. Without a niceness of 0, Ray's workers starve
# beside anything else that runs.
os.environ.update(
    {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
)
os.environ.pop("RAY_ADDRESS", None)  # a cluster of somebody's, which no test may join

# Defaults of every recipe: the tests are not the place for the user's own runs.
for _name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of this session, which executors join; with room for some standing workers beside a run's own."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def migrated_mlflow(tmp_path_factory):
    """A database that MLflow has laid out once: doing so takes seconds."""
    from pipeline.tracking.mlflow_tracker import MLflowTracker

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    tracker = MLflowTracker(f"sqlite:///{path}", "migrated")
    tracker.start(None, "migrated", {}, {})
    tracker.end("FINISHED")
    return path


@pytest.fixture
def mlflow_uri(migrated_mlflow, tmp_path):
    """The tracking URI of a database of this test's own."""
    return f"sqlite:///{shutil.copy(migrated_mlflow, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="session")
def small_images(tmp_path_factory):
    """The path of an image file of 24 classes × 20 pictures, 16×16, that can be learnt."""
    from tests import small_images

    return small_images.write(tmp_path_factory.mktemp("small_images") / "patterns.arrow")


@pytest.fixture
def torch_threads():
    """One thread, as a worker has by default; afterwards as many as before, whatever a worker in the test has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield 1
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def plugins_of_this_test_alone():
    """A run's identity names the plug-ins of its process: what a test imports is none of the next test's."""
    from pipeline.core import plugins

    before = dict(plugins._imported)
    yield
    plugins._imported.clear()
    plugins._imported.update(before)
