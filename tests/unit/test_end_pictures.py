"""What a person sees of a finished run in MLflow: pictures, words, data, and the evaluation as one curve."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline.build import build_components
from pipeline.config import load
from pipeline.core.algorithm import Remembers
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.types import Context
from pipeline.derived import validations
from pipeline.runs import end_pictures
from pipeline.runs.description import command
from pipeline.runs.run import RunOptions, train_run
from tests.quiet_runs import Onlooker
from tests.runtime.tiny import recipe

ALWAYS = {"adaptation", "training", "gradients", "workers"}
IMAGES = ALWAYS | {"episodes", "confusion"}


@pytest.fixture
def trained(mlflow_uri, tmp_path):
    """Trains a tiny recipe with a report; returns its result, what was noted, and its run in MLflow."""

    def train(algorithm, images, report=True, **changes):
        tracking = {"uri": mlflow_uri, "log_every": 1, "report": report}
        onlooker = Onlooker()
        of = recipe(algorithm, images, 4, tracking=tracking, **changes)
        ended = train_run(of, RunOptions("serial", output=tmp_path / "run"), onlooker)
        assert ended.unsent is None
        run = (tmp_path / "run" / "tracked_run").read_text()
        client = MlflowClient(tracking_uri=mlflow_uri)
        return ended, onlooker.notes, client.get_run(run), client

    return train


@pytest.mark.parametrize(
    ("algorithm", "also"),
    [
        ("protonet", IMAGES),
        pytest.param("mann", ALWAYS | {"fits", "memory"}, marks=pytest.mark.slow),
        ("metasgd", ALWAYS | {"fits", "rates"}),
    ],
)
def test_a_run_has_the_pictures_of_its_kind(trained, small_images, algorithm, also):
    ended, notes, run, client = trained(algorithm, small_images)
    assert not [note for note in notes if note.startswith("no picture")]
    listed = {Path(file.path).stem for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert listed == also
    for name in sorted(listed):
        path = client.download_artifacts(run.info.run_id, f"pictures/{name}.png")
        assert Image.open(io.BytesIO(Path(path).read_bytes())).format == "PNG"
    metric = ended.summary["evaluation"]["metric"]
    curve = client.get_metric_history(run.info.run_id, f"eval/{metric}")
    rows = [row for row in ended.summary["evaluation"]["rows"] if row["metric"] == metric]
    assert [(point.step, point.value) for point in curve] == [(row["point"], row["mean"]) for row in rows]


def test_a_run_is_told_in_words_with_its_data(trained, small_images):
    ended, _, run, _ = trained("protonet", small_images)
    words = run.data.tags["mlflow.note.content"]
    rows = [row for row in ended.summary["evaluation"]["rows"] if row["metric"] == "accuracy"]
    assert f"**{rows[-1]['mean']:.2%} ±" in words
    assert "on 4 tasks of the test split" in words
    assert ended.summary["theta_sha256"] in words
    assert "python -m jobs.train recipe.yaml" in words
    (used,) = run.inputs.dataset_inputs
    known = json.loads(used.dataset.profile)
    source = build_components(recipe("protonet", small_images)).source
    assert (known["hash"], used.dataset.digest) == (source.fingerprint, source.fingerprint[:36])
    assert known["splits"] == source.counts()


def test_what_cannot_be_drawn_is_noted_and_the_run_is_finished(trained, small_images, monkeypatch):
    def broken(*_):
        raise ValueError("no such colour\nas this")

    monkeypatch.setattr(end_pictures.curves, "adaptation", broken)
    ended, notes, run, client = trained("metasgd", small_images)
    assert notes[-1] == "no picture of adaptation: ValueError: no such colour"
    assert run.info.status == "FINISHED"
    listed = {Path(file.path).stem for file in client.list_artifacts(run.info.run_id, "pictures")}
    assert listed == ALWAYS - {"adaptation"} | {"fits", "rates"}


def test_without_a_report_a_run_has_its_numbers_alone(trained, small_images):
    _, _, run, client = trained("metasgd", small_images, report=False)
    assert "mlflow.note.content" not in run.data.tags
    assert not client.list_artifacts(run.info.run_id, "pictures")
    assert "eval/mse" in run.data.metrics


def test_the_command_repeats_the_run():
    changed = ["steps=7", "net.hidden=[8, 8]", "evaluation.tasks=5"]
    of = load("sinusoid_maml", [*changed, "tracking.experiment=mine"])
    told = command(of)
    assert told.startswith("python -m jobs.train sinusoid_maml ")
    assert "'net.hidden=[8, 8]'" in told
    assert "tracking" not in told
    again = load("sinusoid_maml", shlex.split(told)[4:])
    assert again.model_copy(update={"tracking": of.tracking}) == of
    assert command(load("sinusoid_maml", ["name=mine"])).startswith("python -m jobs.train recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "work", "expected"),
    [
        ([], 1.0, (150, 200)),
        ([], 0.0, (150, 200)),
        ([], 8.0, (150, 60)),
        ([], 100.0, (750, 20)),
        (["steps=300"], 1.0, (15, 24)),
        (["steps=300"], 8.0, (50, 20)),
        (["steps=30"], 1.0, (15, 20)),
        (["steps=4", "tasks_per_step=16"], 1.0, (0, 20)),
        (["evaluation.tasks=50"], 1.0, (150, 50)),
        (["evaluation.validate_every=7"], 8.0, (7, 200)),
        (["evaluation.validate_every=0"], 1.0, (0, 200)),
    ],
)
def test_validations_are_a_small_share_of_the_tasks_and_of_their_work(changes, work, expected):
    of = load("sinusoid_maml", changes)
    found = validations(of, build_components(of).source, work)
    assert found == expected
    if of.evaluation.validate_every == "auto" and found[0]:
        tasks = of.steps // found[0] * found[1]
        assert tasks <= 0.05 * of.steps * of.tasks_per_step
        assert tasks * work <= 0.1 * of.steps * of.tasks_per_step


def test_there_is_no_validation_where_the_split_cannot_fill_the_tasks(small_images):
    shape = {"ways": 5, "shots": 1, "queries": 2}
    of = recipe("protonet", small_images, 1000, task={"train": shape, "eval": shape | {"ways": 3}})
    source = build_components(of).source
    assert validations(of, source, 1.0)[0] > 0
    large = recipe("protonet", small_images, 1000, task={"train": shape, "eval": shape | {"queries": 25}})
    assert validations(large, build_components(large).source, 1.0)[0] == 0


@pytest.mark.parametrize("algorithm", ["mann", "ntm", "memorygated", "memoryrnn"])
def test_a_memory_says_where_it_is_read_and_written(small_images, algorithm):
    components = build_components(recipe(algorithm, small_images))
    algorithm_, source = components.algorithm, components.source
    assert isinstance(algorithm_, Remembers)
    ticket = Ticket(3, "evaluate", "test", 0, 0)
    task = cast(source.sample(ticket), components.layout.dtype)
    context = Context(0, "evaluate", task.ways, algorithm_.draw(ticket.rng("noise"), task, "evaluate"))
    with torch.no_grad():
        found = algorithm_.memory_weights(components.layout.unpack(components.theta), task, context)
    if algorithm == "memoryrnn":
        assert found is None
        return
    assert found.read.shape[0] == found.written.shape[0] == len(found.labels) == len(task.support.y)
    np.testing.assert_allclose(found.read.sum(-1).numpy(), 1.0, rtol=1e-5)
    assert sorted(found.labels.tolist()) == sorted(task.support.y.tolist())
