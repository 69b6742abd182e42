"""What several test files share: one local Ray, one migrated MLflow database, one small image file."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

collect_ignore = ["bench", "soak"]
"""Folders without tests: to look for examples in them imports what no test needs."""

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


SAME_RAY = {
    f"tests/runtime/test_{name}.py"
    for name in ("addresses", "http_serving", "ray_drills", "ray_equals_serial", "ray_faults")
}
"""Files that use ``ray_local`` every day."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """As ``--dist loadfile``, but ``SAME_RAY`` is one file: a Ray takes seconds of all cores to start."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneRay(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "those of one Ray" if file in SAME_RAY else file

    return OneRay(config, log)


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of this session, which executors join; with room for some standing workers beside a run's own.

    It believes in two GPUs, so that it places workers on them.
    """
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=8, num_gpus=2, **quiet)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def migrated_mlflow(tmp_path_factory):
    """A database that MLflow has laid out once, for all processes that share these tests: doing so takes seconds."""
    from pipeline.tracking.mlflow_tracker import MLflowTracker

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "migrated.db"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
            tracker = MLflowTracker(f"sqlite:///{path}", "migrated")
            tracker.start(None, "migrated", {}, {})
            tracker.end("FINISHED")
            shutil.copy(path, own / "whole.db")
            (own / "whole.db").rename(shared)
    return shared


@pytest.fixture
def mlflow_uri(migrated_mlflow, tmp_path):
    """The tracking URI of a database of this test's own."""
    return f"sqlite:///{shutil.copy(migrated_mlflow, tmp_path / 'mlflow.db')}"


@pytest.fixture(scope="session")
def small_images(tmp_path_factory):
    """The path of an image file of 24 classes × 20 pictures, 16×16, that can be learnt."""
    from tests import small_images

    return small_images.write(tmp_path_factory.mktemp("small_images") / "patterns.arrow")


@pytest.fixture(scope="module")
def undrawn():
    """Runs of this module are reported without pictures, which take longer than such a run; ``test_end_pictures`` and
    ``test_jobs`` look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runs.end_files.pictures", lambda ended, note: {})
        yield


@pytest.fixture
def torch_threads():
    """One thread, as a worker has by default; afterwards as many as before, whatever a worker in the test has set."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield 1
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def plugins_of_this_test_alone(tmp_path_factory):
    """What a test registers, imports as a plug-in or imports from its own folder is none of the next test's."""
    from pipeline.algorithms import ALGORITHMS
    from pipeline.core import plugins
    from pipeline.core.losses import LOSSES
    from pipeline.nets import NETS
    from pipeline.tasks import SOURCES

    before = [(names, dict(names)) for names in (ALGORITHMS, NETS, SOURCES, LOSSES, plugins._imported)]
    modules, own = set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    for names, entries in before:
        names.clear()
        names.update(entries)
    for name in sys.modules.keys() - modules:
        if own in repr(getattr(sys.modules[name], "__spec__", None)):
            del sys.modules[name]
