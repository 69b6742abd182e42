"""What was trained is what is served: the numbers of evaluation, any labels, one line for what does not fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline
from pipeline.build import BuildWorker, build_components
from pipeline.config import Recipe, validate
from pipeline.core.failures import ConfigError, DataError, ResumeError
from pipeline.core.seeding import Ticket
from pipeline.core.types import Batch, Context, Task
from pipeline.engine.chunks import chunks_of
from pipeline.engine.evaluate import EvaluationPlan
from pipeline.engine.worker import Worker
from pipeline.runs.run import RunOptions, evaluate_run, train_run
from pipeline.runs.run_folder import load_learner, newest, pack, validate_folder
from pipeline.serving.learner import Learner
from pipeline.tasks import SOURCES, classfile
from tests.unit.virtual import Recorder

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, SHOTS, SIDE = 3, 2, 16
MAML = {"name": "maml", "inner_lr": 0.1, "eval_inner_steps": 3}
REPTILE = {"name": "reptile", "inner_steps": 2, "eval_inner_steps": 4, "eval_inner_batch": 3}
PROTONET = {"name": "protonet"}
IMAGES = [
    (MAML, "support"),
    (MAML, "one_query"),
    (MAML, "group"),
    (REPTILE, "one_query"),
    (PROTONET, "running"),
    (PROTONET, "support"),
    (PROTONET, "none"),
]


class Silent:
    """Nobody looks on."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None: ...

    def validated(self, *validation: object) -> None: ...

    def note(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def arrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of six images, each class around a pattern of its own."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (12, 1, SIDE, SIDE))
    images = (patterns + rng.integers(0, 56, (12, 6, SIDE, SIDE))).astype(np.uint8).reshape(72, SIDE, SIDE)
    splits = {"random": {"train": range(6), "val": range(6, 8), "test": range(8, 12)}}
    splits = {name: {split: list(classes) for split, classes in each.items()} for name, each in splits.items()}
    path = tmp_path_factory.mktemp("images") / "images.arrow"
    classfile.write(path, images, [6] * 12, [f"class {index}" for index in range(12)], splits, "made up")
    return path


def image_recipe(arrow: Path, algorithm: dict[str, Any], mode: str) -> Recipe:
    shape = {"ways": WAYS, "shots": SHOTS, "queries": 2}
    data = {
        "name": "tiny_images",
        "steps": 2,
        "tasks_per_step": 4,
        "chunk_size": 2,
        "algorithm": algorithm,
        # Sixteen channels, as eight groups of one value each are refused.
        "net": {"name": "conv4", "channels": 16 if mode == "group" else 8},
        "source": {"name": "images", "path": str(arrow)},
        "normalisation": mode,
        "task": {"train": shape, "eval": shape},
        "outer": {"model": {"lr": 0.01}},
        "evaluation": {"tasks": 4},
    }
    return validate(data, "tiny_images")


def wave_recipe() -> Recipe:
    shape = {"shots": 5, "queries": 5}
    data = {
        "name": "tiny_waves",
        "steps": 2,
        "tasks_per_step": 4,
        "chunk_size": 2,
        "algorithm": MAML,
        "net": {"name": "mlp", "hidden": [8]},
        "source": {"name": "sinusoid"},
        "normalisation": "none",
        "task": {"train": shape, "eval": shape},
        "outer": {"model": {"lr": 0.01}},
        "evaluation": {"tasks": 4},
    }
    return validate(data, "tiny_waves")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """The folder of a finished run of a recipe; each is trained once."""
    folders: dict[str, Path] = {}

    def trained(recipe: Recipe) -> Path:
        key = recipe.model_dump_json()
        if key not in folders:
            folder = tmp_path_factory.mktemp("run") / "out"
            here = recipe.model_copy(
                update={
                    "tracking": recipe.tracking.model_copy(
                        update={"uri": f"sqlite:///{folder.parent}/mlflow.db", "report": False}
                    )
                }
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pipeline.tracking.mlflow_tracker.MLflowTracker", lambda uri, experiment: Recorder())
                folders[key] = train_run(here, RunOptions("serial", output=folder), Silent()).folder
        return folders[key]

    return trained


def evaluated(learner: Learner, task: Task[Batch], ticket: Ticket) -> np.ndarray:
    """The outputs that evaluation scores, out of the algorithm itself."""
    algorithm = learner.algorithm
    noise = algorithm.draw(ticket.rng("noise"), task, "evaluate")
    support, query = (Batch(part.x.to(learner.dtype), part.y) for part in (task.support, task.query))
    if learner.spec.targets == "values":
        support = support._replace(y=support.y.to(learner.dtype))
    with torch.no_grad():
        *_, adapted = algorithm.trace(learner.theta, support, Context(0, "evaluate", task.ways, noise))
        return algorithm.predict(adapted, query.x).numpy()


@pytest.mark.parametrize(
    ("algorithm", "mode"),
    [pytest.param(*one, marks=pytest.mark.slow if one[0] is REPTILE else ()) for one in IMAGES],
    ids=lambda part: part if isinstance(part, str) else part["name"],
)
def test_served_answers_are_those_of_evaluation(arrow, run_of, algorithm, mode):
    folder = run_of(image_recipe(arrow, algorithm, mode))
    learner = pipeline.load(folder)
    source = load_source(folder)
    # Serving draws Reptile's minibatches from a ticket of its own: evaluation is given the same.
    served = Ticket(0, "serve", "test", 0, 0)
    for number in range(3):
        task = source.sample(Ticket(20260, "evaluate", "test", 0, number))
        predictor = learner.adapt(task.support.x.numpy(), task.support.y.numpy())
        assert np.array_equal(predictor.outputs(task.query.x.numpy()), evaluated(learner, task, served))
        answers = predictor.predict(task.query.x.numpy())
        assert answers == evaluated(learner, task, served).argmax(1).tolist()


def load_source(folder: Path) -> Any:
    return build_components(validate_folder(folder)).source


def test_served_values_of_a_regression_are_those_of_evaluation(run_of):
    folder = run_of(wave_recipe())
    learner, source = pipeline.load(folder), load_source(folder)
    task = source.sample(Ticket(20260, "evaluate", "test", 0, 0))
    predictor = learner.adapt(task.support.x.tolist(), task.support.y.tolist())
    expected = evaluated(learner, task, Ticket(0, "serve", "test", 0, 0))
    assert np.array_equal(predictor.predict(task.query.x.tolist()), expected)
    assert expected.shape == (5, 1)
    flat = learner.adapt(task.support.x, task.support.y[:, 0])  # [N] for [N, 1]
    assert np.array_equal(flat.predict(task.query.x), expected)


def test_the_accuracy_of_evaluation_is_that_of_served_labels(arrow, run_of):
    """Through the worker that evaluation runs on, not only through the same methods."""
    folder = run_of(image_recipe(arrow, MAML, "support"))
    recipe = validate_folder(folder)
    worker: Worker = BuildWorker(recipe.model_dump_json())()
    components = build_components(recipe)
    plan = EvaluationPlan("test", 4, 20260, 2, recipe.shapes().eval, "")
    learner = pipeline.load(folder)
    for chunk in chunks_of(plan.seed, 0, plan.tasks, plan.chunk_size, purpose="evaluate", split=plan.split):
        report = worker.score(pack(components.layout, newest(folder)[0]), chunk)
        for at, ticket in enumerate(chunk.tickets):
            task = components.source.sample(ticket)
            answers = learner.adapt(task.support.x, task.support.y).predict(task.query.x)
            right = np.mean([answer == slot for answer, slot in zip(answers, task.query.y.tolist(), strict=True)])
            assert right == pytest.approx(report.metrics["accuracy"][at, -1])


@pytest.fixture
def learner(arrow, run_of) -> Learner:
    return pipeline.load(run_of(image_recipe(arrow, PROTONET, "support")))


@pytest.fixture
def headed(arrow, run_of) -> Learner:
    return pipeline.load(run_of(image_recipe(arrow, MAML, "support")))


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 1, SIDE, SIDE))


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog", "cat", "é", "dog", "cat"],
        [7, -1, 7, 100, -1, 7],
        [("a", 1), ("b", 2), ("a", 1), ("c", 3), ("b", 2), ("a", 1)],
        np.array(["cat", "dog", "cat", "eel", "dog", "cat"]),
        np.array([2.5, 0.5, 2.5, 1.5, 0.5, 2.5]),
        torch.tensor([4, 2, 4, 9, 2, 4]),
        [1, False, 1, "x", False, 1],
    ],
    ids=["text", "numbers", "tuples", "numpy text", "numpy numbers", "a tensor", "odd"],
)
@pytest.mark.parametrize("which", ["learner", "headed"])
def test_labels_of_any_kind_and_unequal_shots(which, labels, request):
    """The same answers as for slots, under the labels' own names."""
    ours: Learner = request.getfixturevalue(which)
    x, queries = images(6), images(5, 1)
    slots = [0, 1, 0, 2, 1, 0]
    named, plain = ours.adapt(x, labels), ours.adapt(x, slots)
    values = labels.tolist() if isinstance(labels, np.ndarray | torch.Tensor) else labels
    names = [values[slots.index(slot)] for slot in range(3)]
    assert list(named.labels) == names
    assert np.array_equal(named.outputs(queries), plain.outputs(queries))
    answers = named.predict(queries)
    assert answers == [names[slot] for slot in plain.predict(queries)]
    assert [type(answer) for answer in answers] == [type(names[names.index(answer)]) for answer in answers]


def test_the_order_of_the_support_set_does_not_change_who_is_who(learner):
    x, labels, queries = images(6), ["a", "b", "a", "c", "b", "c"], images(4, 1)
    order = [5, 3, 0, 4, 1, 2]
    one, other = learner.adapt(x, labels), learner.adapt(x[order], [labels[at] for at in order])
    assert one.predict(queries) == other.predict(queries)
    rearranged = [list(other.labels).index(label) for label in one.labels]
    np.testing.assert_allclose(one.outputs(queries), other.outputs(queries)[:, rearranged], rtol=1e-4, atol=1e-4)


def test_fewer_classes_than_the_head_has_outputs_are_answered_among_themselves(headed):
    predictor = headed.adapt(images(4), ["a", "b", "a", "b"])
    assert predictor.outputs(images(5, 1)).shape == (5, 2)
    assert set(predictor.predict(images(40, 1))) <= {"a", "b"}


def test_a_metric_method_takes_more_classes_than_it_was_trained_with(learner):
    predictor = learner.adapt(images(12), list("abcdefghijkl"))
    assert predictor.outputs(images(5, 1)).shape == (5, 12)


def test_adapting_changes_neither_the_learner_nor_other_predictors(headed):
    theta = {name: leaf.clone() for name, leaf in headed.theta["model"].items()}
    x, queries = images(6), images(4, 1)
    first = headed.adapt(x, [0, 1, 2, 0, 1, 2])
    before = first.outputs(queries)
    headed.adapt(images(6, 7), [0, 0, 1, 1, 2, 2])
    assert np.array_equal(first.outputs(queries), before)
    assert np.array_equal(headed.adapt(x, [0, 1, 2, 0, 1, 2]).outputs(queries), before)
    assert all(torch.equal(headed.theta["model"][name], leaf) for name, leaf in theta.items())


def test_what_was_handed_in_is_not_changed_nor_kept(headed):
    x, queries = images(6).astype(np.float32), images(4, 1)
    kept = x.copy()
    predictor = headed.adapt(x, [0, 1, 2, 0, 1, 2])
    before = predictor.outputs(queries)
    assert np.array_equal(x, kept)
    x[:] = 0
    assert np.array_equal(predictor.outputs(queries), before)


def test_one_row_alone_has_the_answer_it_has_among_others(arrow, run_of):
    for algorithm, mode in IMAGES:
        ours = pipeline.load(run_of(image_recipe(arrow, algorithm, mode)))
        predictor = ours.adapt(images(6), [0, 1, 2, 0, 1, 2])
        queries = images(4, 1)
        alone = np.concatenate([predictor.outputs(query[None]) for query in queries])
        np.testing.assert_allclose(predictor.outputs(queries), alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images(6)[:, 0], [0, 1, 2] * 2, r"support_x: shape \(6, 16, 16\), expected \(N, 1, 16, 16\) with N >= 1"),
        (images(6)[..., :8], [0, 1, 2] * 2, r"support_x: shape \(6, 1, 16, 8\), expected \(N, 1, 16, 16\)"),
        (images(0), [], r"support_x: shape \(0, 1, 16, 16\), expected .* N >= 1"),
        (3.0, [0], r"support_x: shape \(\), expected"),
        (None, [0], r"support_x: shape \(\), expected"),
        (images(6), [0, 1, 2], "support_y: 3 labels for 6 rows of support_x; expected one for each"),
        (images(6), [0, 1, 2, 3, 4, 5], "support_y: 6 classes, but this model was trained with a head of 3"),
        (images(6) * np.nan, [0, 1, 2] * 2, "support_x: expected finite numbers"),
        (images(6).astype(str), [0, 1, 2] * 2, "support_x: expected finite numbers, found dtype <U"),
        (images(6).astype(object), [0, 1, 2] * 2, "support_x: expected finite numbers, found dtype object"),
        ([[1.0, 2.0], [3.0]], [0, 1], "support_x: "),
        (images(6), 3, "support_y: "),
        (images(6), np.eye(6), "support_y: "),
        (images(6), [[0], [1], [2]] * 2, "support_y: "),
        (images(6), [None, 1, 2] * 2, "support_y: None cannot be a label; expected one text or number for each row"),
        (images(6), [float("nan"), 1, 2] * 2, "support_y: nan cannot be a label"),
        (images(6) * 255, [0, 1, 2] * 2, r"support_x: values from .* to 25\d.*, expected 0 to 1 as in training"),
        ((images(6) * 255).astype(np.int64), [0, 1, 2] * 2, "support_x: values from 0 to 25.*, expected 0 to 1"),
    ],
    ids=[
        "no channel", "wrong side", "no rows", "a number", "nothing", "few labels", "many classes", "not finite",
        "text", "objects", "ragged rows", "one label", "one-hot labels", "lists as labels",
        "no label", "nan as a label", "not scaled", "bytes as whole numbers",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(headed, x, y, message):
    with pytest.raises(DataError, match=message) as raised:
        headed.adapt(x, y)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("x", [images(2)[:, 0], images(0), np.full((2, 1, SIDE, SIDE), np.inf)])
def test_queries_that_do_not_fit_are_one_line(headed, x):
    predictor = headed.adapt(images(6), [0, 1, 2] * 2)
    for ask in (predictor.predict, predictor.outputs):
        with pytest.raises(DataError, match="^x: ") as raised:
            ask(x)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((4, 2)), r"support_y: shape \(4, 2\), expected finite values \(4, 1\)"),
        ([0.0, 1.0, np.nan, 2.0], "support_y: expected finite numbers"),
        ([0.0, 1.0], "support_y: 2 labels for 4 rows"),
        (["a", "b", "c", "d"], "support_y: "),
    ],
)
def test_targets_of_a_regression_that_do_not_fit_are_one_line(run_of, y, message):
    learner = pipeline.load(run_of(wave_recipe()))
    with pytest.raises(DataError, match=message) as raised:
        learner.adapt(np.zeros((4, 1)), y)
    assert "\n" not in str(raised.value)


TENSORS = [
    lambda x: x.clone().requires_grad_(),
    lambda x: x.to(torch.bfloat16),
    pytest.param(lambda x: x.cuda(), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("made", TENSORS, ids=["requires_grad", "bfloat16", "cuda"])
def test_tensors_of_any_kind_are_answered_like_arrays(headed, made):
    x = torch.full((2, *headed.spec.input_shape), 0.5)
    expected = headed.adapt(x.numpy(), ["a", "b"]).outputs(x.numpy())
    assert np.array_equal(headed.adapt(made(x), ["a", "b"]).outputs(made(x)), expected)


def test_whole_numbers_stay_so_where_the_inputs_of_the_tasks_are(headed):
    ids = np.ones((2, *headed.spec.input_shape), np.int64)
    assert headed.inputs(ids, "x").dtype == headed.dtype
    tokens = Learner(headed.algorithm, headed.theta, headed.spec._replace(integers=True))
    assert tokens.inputs(ids, "x").dtype == torch.int64
    with pytest.raises(DataError, match="x: dtype float64, expected whole numbers"):
        tokens.inputs(ids / 2, "x")


def test_a_transductive_run_is_served_under_another_mode_or_when_asked_for(arrow, run_of):
    folder = run_of(image_recipe(arrow, MAML, "transductive"))
    with pytest.raises(ConfigError, match="the other rows asked with it; .*normalisation='support'") as raised:
        pipeline.load(folder)
    assert "\n" not in str(raised.value)
    queries = images(4, 1)

    inductive = pipeline.load(folder, normalisation="support").adapt(images(6), [0, 1, 2] * 2)
    alone = np.concatenate([inductive.outputs(query[None]) for query in queries])
    np.testing.assert_allclose(inductive.outputs(queries), alone, rtol=1e-3, atol=1e-3)

    transductive = pipeline.load(folder, normalisation="transductive").adapt(images(6), [0, 1, 2] * 2)
    alone = np.concatenate([transductive.outputs(query[None]) for query in queries])
    assert np.abs(transductive.outputs(queries) - alone).max() > 1e-3


def test_a_mode_that_does_not_exist_is_one_line(arrow, run_of):
    folder = run_of(image_recipe(arrow, MAML, "support"))
    with pytest.raises(ConfigError, match="normalisation: expected .* found 'batch'"):
        pipeline.load(folder, normalisation="batch")


def test_a_mode_that_would_drop_learned_scales_is_refused(arrow, run_of):
    folder = run_of(image_recipe(arrow, MAML, "support"))
    with pytest.raises(ResumeError, match="model/block0/scale.* would be dropped; leave out .* the normalisation$"):
        pipeline.load(folder, normalisation="none")


def test_moments_that_another_mode_has_no_use_for_are_left_out(arrow, run_of):
    folder = run_of(image_recipe(arrow, {"name": "protonet"}, "running"))
    assert "running" not in pipeline.load(folder, normalisation="support").theta


def test_a_folder_without_a_run_or_without_a_checkpoint_is_one_line(run_of, tmp_path):
    with pytest.raises(ConfigError, match="no run"):
        pipeline.load(tmp_path)
    folder = run_of(wave_recipe())
    (tmp_path / "recipe.yaml").write_text((folder / "recipe.yaml").read_text())
    with pytest.raises(ResumeError, match="no valid checkpoint"):
        load_learner(tmp_path, None)


def test_the_newest_valid_checkpoint_is_served(run_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run_of(wave_recipe()), folder)
    newest = pipeline.load(folder).theta["model"]["head/bias"]
    (folder / "checkpoints" / "step-00000002.safetensors").write_bytes(b"torn")
    said = r"the theta of step 1, and the run has reached step 2; passed over: .*step-00000002.safetensors: cannot be"
    with pytest.warns(UserWarning, match=said):
        before = pipeline.load(folder).theta["model"]["head/bias"]
    assert not torch.equal(newest, before)
    with pytest.warns(UserWarning, match=said):
        pipeline.replay(folder, step=1, number=0)
    (folder / "checkpoints" / "step-00000002.safetensors").unlink()
    with pytest.warns(UserWarning, match="the theta of step 1, and the run has reached step 2$"):
        pipeline.load(folder)


def test_a_checkpoint_of_another_step_s_name_is_passed_over(run_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run_of(wave_recipe()), folder)
    shutil.copy(folder / "checkpoints" / "step-00000001.safetensors", folder / "checkpoints/step-00000002.safetensors")
    with pytest.warns(UserWarning, match="passed over: .*step-00000002.safetensors: holds step 1, it was renamed"):
        pipeline.load(folder)


@pytest.mark.parametrize("use", [pipeline.load, lambda folder: pipeline.replay(folder, step=1, number=0)])
def test_the_theta_of_another_run_is_not_served(run_of, tmp_path, use):
    folder = tmp_path / "copy"
    shutil.copytree(run_of(wave_recipe()), folder)
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(re.sub("inner_lr: .*", "inner_lr: 0.0123", text))
    with pytest.raises(ResumeError, match=r"step-00000002.* other values .*algorithm\.inner_lr: .* -> 0\.0123;"):
        use(folder)
    (folder / "recipe.yaml").write_text(text)
    other = run_of(wave_recipe().model_copy(update={"seed": 99}))
    shutil.copy(other / "checkpoints" / "step-00000002.safetensors", folder / "checkpoints")
    with pytest.raises(ResumeError, match=r"other values .*seed: 99 -> \d+;"):
        use(folder)


SERIAL = RunOptions("serial")


def test_an_evaluation_says_which_theta_it_scores_and_refuses_another_run_s(run_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run_of(wave_recipe()), folder)
    assert evaluate_run(folder, [], SERIAL)["note"] == ""
    (folder / "checkpoints" / "step-00000002.safetensors").unlink()
    scored = evaluate_run(folder, ["evaluation.tasks=2"], SERIAL)
    assert (scored["step"], scored["evaluation"]["tasks"]) == (1, 2)
    assert scored["note"] == f"{folder}: this is the theta of step 1, and the run has reached step 2"
    other = run_of(wave_recipe().model_copy(update={"seed": 99}))
    shutil.copy(other / "checkpoints" / "step-00000002.safetensors", folder / "checkpoints")
    with pytest.raises(ResumeError, match=r"step-00000002.* seed: 99 -> \d+;"):
        evaluate_run(folder, [], SERIAL)


def test_an_evaluation_on_other_data_has_to_be_asked_for(arrow, run_of, tmp_path):
    folder, other = tmp_path / "copy", tmp_path / "other.arrow"
    shutil.copytree(run_of(image_recipe(arrow, PROTONET, "support")), folder)
    file = classfile.read(arrow)
    classfile.write(other, file.images ^ 1, [6] * 12, file.names, file.splits, "made up")
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace(str(arrow), str(other)))
    with pytest.raises(ResumeError, match=r"than the run's recipe.yaml and data have now: data: '\w+/random' -> '\w+/"):
        evaluate_run(folder, [], SERIAL)
    evaluate_run(folder, [f"source.path={other}"], SERIAL)
    (folder / "recipe.yaml").write_text(text)
    evaluate_run(folder, [], SERIAL)


def test_replay_builds_the_source_once(run_of, monkeypatch):
    built = []

    class Counted(SOURCES["sinusoid"]):
        def __init__(self, *arguments):
            built.append(self)
            super().__init__(*arguments)

    folder = run_of(wave_recipe())
    monkeypatch.setitem(SOURCES, "sinusoid", Counted)
    pipeline.replay(folder, step=2, number=3)
    assert len(built) == 1


def test_replay_learns_one_task_of_the_run(run_of):
    folder = run_of(wave_recipe())
    gradient, score = pipeline.replay(folder, step=2, number=3)
    again, _ = pipeline.replay(folder, step=2, number=3)
    other, _ = pipeline.replay(folder, step=2, number=2)
    assert torch.isfinite(score.loss)
    for name, leaf in gradient["model"].items():
        assert torch.equal(again["model"][name], leaf)
        assert not torch.equal(other["model"][name], leaf)
