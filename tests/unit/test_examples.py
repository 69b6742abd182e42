"""The examples in the docstrings of the public functions run, in a folder that holds a finished run."""

from __future__ import annotations

import doctest
import shutil

import pytest

import pipeline
from pipeline.serving import learner


@pytest.fixture
def finished(migrated_mlflow, tmp_path, monkeypatch):
    shutil.copy(migrated_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    pipeline.train("sinusoid_maml", ["steps=2", "evaluation.tasks=4", "tracking.report=false"], output="runs/first")


@pytest.mark.usefixtures("finished", "torch_threads", "undrawn")
def test_the_examples_of_the_public_functions_run():
    for module, examples in ((pipeline, 4), (learner, 3)):
        found = [one for one in doctest.DocTestFinder().find(module) if one.examples]
        assert len(found) >= examples, "every public function has an example"
        assert doctest.testmod(module).failed == 0
