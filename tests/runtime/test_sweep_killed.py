"""A sweep of twelve children that is killed again and again and resumed: twelve children, none twice."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from pipeline.storage import storage_at
from pipeline.sweeps.children import load
from tests.runtime.sweeping import CHILDREN, Sweeping, problems

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
MOMENTS = [
    ("sweep.json", KILL),  # before the parent is in MLflow
    ("sinusoid_maml-001/tracked_key", KILL),  # before the child is in MLflow, or while it is created
    ("sinusoid_maml-002/checkpoints/step-00000002.safetensors", KILL),
    ("children/0003.json", KILL),
    ("sinusoid_maml-005/checkpoints/step-00000004.safetensors", TERM),
    ("sinusoid_maml-006/summary.json", KILL),  # trained, and not recorded
    ("children/0007.json", INT),
    ("sinusoid_maml-009/tracked_run", KILL),
    ("sinusoid_maml-010/best.safetensors", TERM),
    ("children/0012.json", KILL),
    ("test.json", KILL),
]


def scores(sweep):
    return {one.number: (one.values, one.score, one.curve) for one in load(storage_at(sweep))}


@pytest.mark.drill
def test_killed_at_many_moments_it_has_each_child_once(migrated_mlflow, tmp_path):
    whole, cut = Sweeping(tmp_path / "whole"), Sweeping(tmp_path / "cut")
    for one in (whole, cut):
        one.folder.mkdir()
        shutil.copy(migrated_mlflow, one.folder / "mlflow.db")
    assert whole.start("--executor", "serial").wait(300) == 0
    codes = [cut.kill_when(name, number, "--executor", "serial") for name, number in MOMENTS]
    assert codes == [-number if number == KILL else 128 + number for _, number in MOMENTS]
    assert cut.start("--executor", "serial").wait(300) == 0, (cut.folder / "err").read_text()
    for one in (whole, cut):
        assert not problems(f"sqlite:///{one.folder / 'mlflow.db'}", one.sweep)
    assert scores(cut.sweep) == scores(whole.sweep)
    assert len(scores(cut.sweep)) == CHILDREN
    first, second = (json.loads((one.sweep / "test.json").read_text()) for one in (whole, cut))
    assert first == second
