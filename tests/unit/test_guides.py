"""The guide to one's own parts keeps its word: each plug-in it shows is imported and trained as it says."""

from __future__ import annotations

import importlib
import shlex
import shutil
import sys

import pytest

import jobs
from pipeline.core.losses import LOSSES
from tests.unit.test_readme import GUIDE, blocks, commands, files

FILES = files(GUIDE)
TRAINED = [words for words in commands(GUIDE) if "--import" in words]
QUICK = ("steps=2", "tasks_per_step=2", "chunk_size=2", "evaluation.tasks=4", "tracking.report=false")
SHAPES = ("task.train.ways=5", "task.train.queries=2", "task.eval.queries=2")


@pytest.fixture
def lab(migrated_mlflow, tmp_path, monkeypatch):
    """A folder with every file that the guide shows."""
    shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "my_lab").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("command", TRAINED, ids=lambda words: words[words.index("--import") + 1])
@pytest.mark.usefixtures("torch_threads")
def test_each_plug_in_of_the_guide_trains(command, lab, small_images, monkeypatch):
    images = [f"source.path={small_images}", *SHAPES] if command[3].startswith("omniglot") else []
    monkeypatch.setattr(sys, "argv", [*command[2:], "--executor", "serial", "--output", "run", *QUICK, *images])
    with pytest.raises(SystemExit) as ended:
        jobs.run(importlib.import_module(command[2]).main)
    assert ended.value.code == 0, shlex.join(command)
    assert (lab / "run" / "summary.json").exists()
    served = f'load("runs/rooms", plugins=["{command[command.index("--import") + 1]}"]'
    for block in [one for one in blocks(GUIDE, "python") if served in one]:
        shutil.move(lab / "run", lab / command[command.index("--output") + 1])
        exec(block, {})


def test_the_guide_registers_a_loss_and_writes_a_test(lab):
    importlib.import_module("my_lab.losses")
    assert not LOSSES["huber"].higher_is_better
    assert callable(importlib.import_module("test_methods").test_contract)
