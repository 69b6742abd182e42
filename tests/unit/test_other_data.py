"""Classes that a run was trained on are no test of it, and numbers on other data than its own say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.failures import ConfigError, DataError
from pipeline.runs.report import result_table
from pipeline.runs.run import RunOptions, RunResult, evaluate_run, train_run
from pipeline.tasks import classfile
from tests.quiet_runs import Onlooker
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads")

CLASSES, EACH, SIDE = 16, 4, 16
SETS = {
    "random": {"train": range(8), "val": range(8, 12), "test": range(12, 16)},
    "background": {"train": range(8, 12), "test": [*range(4, 8), *range(12, 16)]},
    "disjoint": {"train": range(4), "test": range(8, 16)},
}


def images(path: Path, seed: int = 0, classes: int = CLASSES) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (classes * EACH, SIDE, SIDE), np.uint8)
    splits = {name: {split: list(some) for split, some in sets.items()} for name, sets in SETS.items()}
    classfile.write(path, pixels, [EACH] * classes, [f"class {n}" for n in range(classes)], splits, "a test")
    return path


@pytest.fixture
def trained(tmp_path, mlflow_uri) -> RunResult:
    """One step on the split set random."""
    recipe = tiny.recipe("protonet", images(tmp_path / "own.arrow"), steps=1, tracking={"uri": mlflow_uri})
    return train_run(recipe, RunOptions("serial", output=tmp_path / "run"), Onlooker())


def test_classes_that_were_trained_on_are_refused_as_a_test(trained):
    says = (
        "source.split: background: 4 of the 8 classes of its split test were trained on, in the split train of random;"
        " evaluate on random, or on classes that the run has not seen"
    )
    with pytest.raises(ConfigError) as raised:
        evaluate_run(trained.folder, ["source.split=background"], RunOptions("serial"))
    assert str(raised.value) == says


def test_they_are_refused_in_a_copy_of_the_images_and_when_the_file_lies_elsewhere(trained, tmp_path):
    changes = [f"source.path={images(tmp_path / 'copy.arrow')}", "source.split=background"]
    with pytest.raises(ConfigError, match="4 of the 8 classes of its split test were trained on"):
        evaluate_run(trained.folder, changes, RunOptions("serial"))
    (tmp_path / "own.arrow").unlink()
    with pytest.raises(ConfigError, match="4 of the 8 classes of its split test were trained on"):
        evaluate_run(trained.folder, changes, RunOptions("serial"))


def test_the_evaluation_of_a_trained_run_rehearses_no_learning(trained, monkeypatch):
    """Where all tasks are solved, nothing could be learned."""

    def refuse(*_: object) -> None:
        raise AssertionError("an evaluation rehearsed learning")

    monkeypatch.setattr("pipeline.runs.dry_run.check_algorithm", refuse)
    monkeypatch.setattr("pipeline.engine.worker.Worker.learn", refuse)
    assert evaluate_run(trained.folder, [], RunOptions("serial"))["evaluation"] == trained.summary["evaluation"]


def test_a_runs_own_data_are_named_and_not_marked(trained, tmp_path):
    moved = (tmp_path / "own.arrow").rename(tmp_path / "moved.arrow")
    for evaluation in (
        trained.summary["evaluation"],
        evaluate_run(trained.folder, [f"source.path={moved}"], RunOptions("serial"))["evaluation"],
        evaluate_run(trained.folder, [f"source.path={moved}", "evaluation.split=train"], RunOptions("serial"))[
            "evaluation"
        ],
    ):
        assert evaluation["set"] == "random"
        assert not any("other_data" in row for row in evaluation["rows"])
        title, head, *_ = result_table(evaluation).splitlines()
        assert title.startswith(f"{evaluation['split']} split of random, 4 tasks: ")
        assert "data" not in head


def test_an_evaluation_records_the_source_s_settings_and_what_it_is_judged_by(trained):
    """So that a table needs no plug-in that defined them."""
    turned = ["source.eval_rotations=classes"]
    for evaluation, rotations in (
        (trained.summary["evaluation"], "none"),
        (evaluate_run(trained.folder, turned, RunOptions("serial"))["evaluation"], "classes"),
    ):
        assert evaluation["settings"] == {"rotations": rotations}
        judged = (evaluation["metric"], evaluation["higher_is_better"], evaluation["unit"])
        assert judged == ("accuracy", True, "share")


@pytest.mark.parametrize(
    ("overrides", "marked"),
    [
        (["source.split=disjoint"], "other data than trained on"),
        (["source.path={folder}/other.arrow", "source.split=background"], "other data than trained on"),
    ],
)
def test_other_classes_are_marked_in_the_title_and_in_each_row(trained, tmp_path, overrides, marked):
    images(tmp_path / "other.arrow", seed=1)
    given = [override.format(folder=tmp_path) for override in overrides]
    evaluation = evaluate_run(trained.folder, given, RunOptions("serial"))["evaluation"]
    assert {row["other_data"] for row in evaluation["rows"]} == {marked}
    assert {row["set"] for row in evaluation["rows"]} == {evaluation["set"]}
    title, head, _, *rows = result_table(evaluation).splitlines()
    assert title.startswith(f"test split of {evaluation['set']} ({marked}), 4 tasks: ")
    assert head.startswith("data ")
    assert all(row.startswith(marked) for row in rows)


def test_where_the_training_images_are_gone_the_mark_says_that_classes_were_not_compared(trained, tmp_path):
    images(tmp_path / "other.arrow", seed=1)
    (tmp_path / "own.arrow").unlink()
    evaluation = evaluate_run(trained.folder, [f"source.path={tmp_path}/other.arrow"], RunOptions("serial"))[
        "evaluation"
    ]
    assert "whose classes cannot be compared: " in evaluation["rows"][0]["other_data"]
    assert "own.arrow is not as it was" in evaluation["rows"][0]["other_data"]


FEW = {"mine": {"test": range(3)}}


@pytest.fixture
def few_classes(tmp_path) -> Path:
    """Three new classes, for evaluation alone."""
    path = tmp_path / "few.arrow"
    pixels = np.random.default_rng(4).integers(0, 256, (3 * 5, SIDE, SIDE), np.uint8)
    splits = {name: {split: list(some) for split, some in sets.items()} for name, sets in FEW.items()}
    classfile.write(path, pixels, [5] * 3, ["cat", "dog", "owl"], splits, "a test")
    return path


@pytest.mark.parametrize("algorithm", ["protonet", "baseline", "matchingnet"])
def test_a_trained_run_is_evaluated_on_a_few_new_classes(algorithm, few_classes, mlflow_uri, tmp_path):
    """They need no split to train on, and a head of one output for each trained class is none of theirs."""
    recipe = tiny.recipe(algorithm, images(tmp_path / "own.arrow"), steps=1, tracking={"uri": mlflow_uri})
    folder = train_run(recipe, RunOptions("serial", output=tmp_path / "run"), Onlooker()).folder
    others = [f"source.path={few_classes}", "source.split=mine"]
    result = evaluate_run(folder, others, RunOptions("serial"))
    assert result["evaluation"]["rows"][0]["other_data"] == "other data than trained on"
    assert {one["name"] for one in result["classes"]} <= {"cat", "dog", "owl"}


def test_too_few_classes_or_images_are_refused_with_what_to_add(trained, few_classes):
    asked = [f"source.path={few_classes}", "source.split=mine", "task.eval.ways=4", "task.eval.queries=15"]
    with pytest.raises(DataError) as raised:
        evaluate_run(trained.folder, asked, RunOptions("serial"))
    fixes = [word.strip(",;") for word in str(raised.value).split() if word.startswith("task.eval.") and "=" in word]
    assert fixes
    told = evaluate_run(trained.folder, [*asked, *fixes], RunOptions("serial"))["evaluation"]
    assert (told["ways"], told["queries"]) == (3, 4)
