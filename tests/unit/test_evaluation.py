"""An evaluation by class, of confidence, beside another run and as a picture."""

from __future__ import annotations

import importlib
import json
import shutil
import sys

import numpy as np
import pytest
import yaml

import jobs
from pipeline.build import source_of
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.statistics import Difference, paired
from pipeline.runs.evaluation import difference_facts, evaluate_and_draw, evaluate_pair
from pipeline.runs.evaluation_text import answers_text, difference_line
from pipeline.runs.run import RunOptions, RunResult, evaluate_run, evaluate_tasks, train_run
from pipeline.runs.run_folder import validate_folder
from pipeline.tasks import classfile
from tests import small_table
from tests.quiet_runs import Onlooker
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads", "undrawn")

SERIAL = RunOptions("serial")
TASKS = 6
TEST_CLASSES = {f"pattern {number:02}" for number in range(16, 24)}


def quiet(text: str) -> None: ...


@pytest.fixture(scope="module")
def runs(small_images, migrated_mlflow, tmp_path_factory):
    """Trains one step of an algorithm on images, or on curves, once for this file; gives the run.

    A run that is ``logged`` has its model in MLflow.
    """
    folder = tmp_path_factory.mktemp("runs")
    tracking = {"uri": f"sqlite:///{shutil.copy(migrated_mlflow, folder / 'mlflow.db')}"}
    shape = {"ways": 3, "shots": 1, "queries": 2}
    images = {
        "net": {"name": "conv4", "channels": 8},
        "source": {"name": "images", "path": str(small_images)},
        "normalisation": "transductive",
        "task": {"train": shape, "eval": shape},
    }
    made: dict[str, RunResult] = {}

    def run(name: str) -> RunResult:
        if name not in made:
            algorithm, _, data = name.partition(" ")
            changes = images if algorithm == "maml" and data != "curves" else {}
            logged = tracking | {"report": data == "logged"}
            of = tiny.recipe(algorithm, small_images, 1, tracking=logged, evaluation={"tasks": TASKS}, **changes)
            made[name] = train_run(of, RunOptions("serial", output=folder / name), Onlooker())
        return made[name]

    return run


@pytest.mark.parametrize("algorithm", ["maml", "protonet", "baseline"])
def test_answers_by_class_add_up_to_the_table(algorithm, runs):
    result, scores = evaluate_tasks(runs(algorithm).folder, [], SERIAL, quiet)
    queries = sum(one["queries"] for one in result["classes"])
    right = sum(one["accuracy"] * one["queries"] for one in result["classes"])
    assert queries == result["calibration"]["answers"] == TASKS * 3 * 2
    assert right / queries == pytest.approx(scores.metrics["accuracy"][:, -1].mean(), abs=1e-6)
    assert {one["name"] for one in result["classes"]} <= TEST_CLASSES
    bins = result["calibration"]["bins"]
    assert sum(one["accuracy"] * one["answers"] for one in bins if one["answers"]) == pytest.approx(right)
    assert sum(one["times"] for one in result["confusions"]["most"]) == pytest.approx(queries - right)
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))


def test_a_run_s_own_evaluation_is_as_it_was(runs):
    ended = runs("protonet")
    assert evaluate_run(ended.folder, [], SERIAL)["evaluation"] == ended.summary["evaluation"]
    assert "calibration" not in ended.summary["evaluation"]


def test_chunks_that_are_handed_out_one_by_one_give_the_same(runs, monkeypatch):
    whole = evaluate_run(runs("protonet").folder, [], SERIAL)
    sizes = []
    score = WorkerPool.score

    def watched(pool, theta, chunks):
        sizes.append(len(chunks))
        yield from score(pool, theta, chunks)
        assert len(pool.scheduler.leases) <= 2

    monkeypatch.setattr(WorkerPool, "score", watched)
    monkeypatch.setattr("pipeline.engine.evaluate.WAVE", 1)
    assert evaluate_run(runs("protonet").folder, [], SERIAL) == whole
    assert sizes == [1] * (TASKS // tiny.CHUNK)


def test_a_model_of_mlflow_is_evaluated_as_its_run(runs, monkeypatch):
    ended = runs("protonet logged")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", validate_folder(ended.folder).tracking.uri)
    model = f"runs:/{(ended.folder / 'tracked_run').read_text()}"
    assert evaluate_run(model, [], SERIAL) == evaluate_run(ended.folder, [], SERIAL)
    told = evaluate_pair(model, ended.folder, [], SERIAL, quiet)["difference"]
    assert (told["run"], told["mean"], told["better"]) == (model, 0.0, None)


def test_curves_have_neither_classes_nor_confidences(runs, tmp_path):
    result = evaluate_run(runs("maml curves").folder, [], SERIAL)
    assert not {"calibration", "classes", "confusions"} & result.keys()
    with pytest.raises(ConfigError, match=r"of the source sinusoid have no confidences"):
        evaluate_and_draw(runs("maml curves").folder, None, [], SERIAL, quiet, tmp_path / "no.png")


def shown_of(told: np.ndarray) -> np.ndarray:
    return np.round(told * 255).astype(np.uint8)


@pytest.mark.parametrize("rotations", ["none", "classes", "random"])
@pytest.mark.parametrize("source", ["images", "image_sets"])
def test_a_task_says_which_class_is_in_each_slot(source, rotations, small_images):
    file = classfile.read(small_images)
    changes = {"source": {"name": source, "path": str(small_images), "eval_rotations": rotations}}
    of = (
        tiny.sets(small_images, "maml", **changes)
        if source == "image_sets"
        else tiny.recipe("protonet", small_images, **changes)
    )
    drawn = source_of(of)
    names = drawn.class_names("test")
    assert len(names) == 8 * (4 if rotations == "classes" else 1)
    for number in range(6):
        task = drawn.sample(Ticket(3, "evaluate", "test", 0, number))
        for x, slot in zip(task.support.x.numpy(), task.support.y.tolist(), strict=True):
            name, _, turned = names[task.classes[slot]].partition(", turned by ")
            first, last = file.rows(list(file.names).index(name))
            turns = [int(turned.removesuffix("°") or 0) // 90] if rotations != "random" else range(4)
            turned_back = [np.rot90(shown_of(x[0]), -turn) for turn in turns]
            assert any((file.images[first:last] == one).all((1, 2)).any() for one in turned_back)


def test_a_row_of_a_table_is_of_the_class_in_its_slot(tmp_path):
    path = small_table.write(tmp_path / "rows.arrow")
    shape = {"ways": 3, "shots": 1, "queries": 2}
    changes = {"source": {"name": "table", "path": str(path)}, "task": {"train": shape, "eval": shape}}
    drawn = source_of(tiny.recipe("protonet", path, net={"name": "mlp"}, normalisation="none", **changes))
    names, raw = drawn.class_names("test"), drawn._rows.file
    task = drawn.sample(Ticket(3, "evaluate", "test", 0, 0))
    for x, slot in zip(task.query.x.numpy(), task.query.y.tolist(), strict=True):
        index = list(raw.names).index(names[task.classes[slot]])
        assert (raw.features[raw.offsets[index] : raw.offsets[index + 1]] == x).all(1).any()


def test_the_difference_of_two_runs_is_that_of_each_task(runs):
    ours, theirs = runs("protonet"), runs("matchingnet")
    result = evaluate_pair(ours.folder, theirs.folder, [], SERIAL, quiet)
    (_, one), (_, other) = (evaluate_tasks(run.folder, [], SERIAL, quiet) for run in (ours, theirs))
    expected = paired(one.metrics["accuracy"][:, -1], other.metrics["accuracy"][:, -1])
    told = result["difference"]
    assert (told["mean"], told["ci95"], told["tasks"]) == tuple(expected)
    assert result["other"]["evaluation"] == theirs.summary["evaluation"]
    back = evaluate_pair(theirs.folder, ours.folder, [], SERIAL, quiet)["difference"]
    assert (back["mean"], back["ci95"], back["better"]) == (-told["mean"], told["ci95"], told["better"])


def test_a_run_beside_itself_shows_no_difference(runs):
    folder = runs("protonet").folder
    told = evaluate_pair(folder, folder, [], SERIAL, quiet)["difference"]
    assert (told["mean"], told["ci95"], told["better"]) == (0.0, 0.0, None)
    assert difference_line(told).startswith("no difference shown: ")


@pytest.mark.parametrize(
    ("better", "says"),
    [("A", "A is better than B by "), ("B", "B is better than A by "), (None, "no difference shown: A less B is +")],
)
def test_a_difference_is_one_sentence(better, says):
    told = {"run": "A", "against": "B", "metric": "accuracy", "unit": "share", "mean": 0.015, "ci95": 0.004}
    assert difference_line(told | {"tasks": 600, "better": better}) == (
        f"{says}1.50 ± 0.40 percentage points of accuracy on the same 600 tasks (paired, 95% interval)"
    )


@pytest.mark.parametrize(
    ("mean", "half", "higher_is_better", "better"),
    [
        (0.5, 0.1, True, "A"),
        (-0.5, 0.1, True, "B"),
        (0.5, 0.1, False, "B"),
        (-0.5, 0.1, False, "A"),
        (0.5, 0.6, True, None),
    ],
)
def test_the_metric_s_direction_says_who_is_better(mean, half, higher_is_better, better):
    judged = {"metric": "mse", "unit": "", "higher_is_better": higher_is_better}
    assert difference_facts(Difference(mean, half, 9), judged, "A", "B")["better"] == better


@pytest.mark.parametrize(
    ("name", "changed", "says"),
    [
        ("evaluation", {"tasks": 5}, "evaluation.tasks 5 for 6"),
        ("evaluation", {"tasks": TASKS, "seed": 9}, "evaluation.seed 9 for "),
        ("task", {"train": {"ways": 3}, "eval": {"ways": 2, "shots": 1, "queries": 2}}, "task.eval.ways 2 for 3"),
    ],
)
def test_other_tasks_are_refused_before_any_is_scored(name, changed, says, runs, tmp_path, monkeypatch):
    ours = runs("protonet").folder
    copy = shutil.copytree(ours, tmp_path / "other")
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe[name] |= changed if name != "task" else {"eval": changed["eval"]}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("pipeline.engine.worker.Worker.score", None)
    with pytest.raises(ConfigError) as raised:
        evaluate_pair(ours, copy, [], SERIAL, quiet)
    assert str(raised.value).startswith(f"--against {copy}: would be evaluated on other tasks (")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_picture_is_written_whole_or_refused_at_once(runs, tmp_path, monkeypatch):
    folder, picture = runs("protonet").folder, tmp_path / "reliability.png"
    evaluate_and_draw(folder, None, [], SERIAL, quiet, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]
    monkeypatch.setattr("pipeline.engine.worker.Worker.score", None)
    for wrong in (tmp_path / "gone" / "a.png", tmp_path / "a.svg"):
        with pytest.raises(ConfigError, match=r"expected the name of a \.png file in a folder that exists"):
            evaluate_and_draw(folder, None, [], SERIAL, quiet, wrong)


def test_the_job_prints_it_all(runs, monkeypatch, capsys):
    argv = ["evaluate", str(runs("protonet").folder), "--executor", "serial", "--against", str(runs("maml").folder)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        jobs.run(importlib.import_module("jobs.evaluate").main)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"test split of random, {TASKS} tasks: 3-way 1-shot")
    assert "calibration of 36 answers: ECE " in printed
    assert "95% interval" in printed
    assert printed.rstrip().splitlines()[-1].endswith(f"on the same {TASKS} tasks (paired, 95% interval)")


def test_the_text_shows_the_hardest_and_the_easiest():
    classes = [
        {"name": f"class {n}", "accuracy": n / 20, "low": n / 25, "high": n / 20 + 0.04, "tasks": 3, "queries": 45}
        for n in range(20)
    ]
    most = [{"name": "class 0", "taken_for": "class 1", "times": 7}]
    calibration = {"ece": 0.0321, "answers": 900, "bins": [0] * 15}
    calibration |= {name: {"mean": 0.25, "ci95": 0.01} for name in ("nll", "brier")}
    text = answers_text(
        {"calibration": calibration, "classes": classes, "confusions": {"pairs": 12, "most": most}}
    ).splitlines()
    assert text[0] == (
        "calibration of 900 answers: ECE 3.21% in 15 bins of equal width, NLL 0.250 ± 0.010 nats, Brier score "
        "0.250 ± 0.010"
    )
    rows = [line.split("  ")[0] for line in text if line.startswith("class ")]
    assert rows[:5] == [f"class {n}" for n in range(5)]
    assert rows[5:10] == [f"class {n}" for n in range(19, 14, -1)]
    assert text[-3].startswith("the 1 most frequent of 12 confusions")
