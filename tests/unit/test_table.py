"""The source table and its file: rows of classes, the labels, damage, and raw rows that are served as trained."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.testing import assert_close

import pipeline
from pipeline.build import build_components
from pipeline.config import load
from pipeline.core.failures import DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Context
from pipeline.runs.run import RunOptions, evaluate_run, train_run
from pipeline.runs.run_folder import validate_folder
from pipeline.tasks import tablefile
from pipeline.tasks.standardise import Standardise
from pipeline.tasks.table import Table
from tests import small_table
from tests.quiet_runs import Onlooker

SHAPE = TaskShape(3, 2, 4)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_table.write(tmp_path_factory.mktemp("table") / "own.arrow")


def source(path, **settings) -> Table:
    return Table(Table.Config(str(path), **settings), TaskShapes(SHAPE, SHAPE))


def ticket(number: int, split="train", purpose="train") -> Ticket:
    return Ticket(11, purpose, split, 0, number)


def classes_of(file, x: torch.Tensor) -> list[int]:
    known = {row.tobytes(): at // small_table.EACH for at, row in enumerate(file.features)}
    return [known[row.numpy().tobytes()] for row in x]


def test_a_task_has_rows_of_as_many_classes_of_its_split(path):
    file, seen = tablefile.read(path), set()
    for number in range(30):
        task = source(path).sample(ticket(number, "test", "evaluate"))
        owners = classes_of(file, task.support.x)
        assert task.support.y.tolist() == [0, 0, 1, 1, 2, 2]
        assert owners == [owners[2 * slot] for slot in task.support.y]
        assert classes_of(file, task.query.x) == [owners[2 * slot] for slot in task.query.y]
        assert task.query.y.tolist() != sorted(task.query.y.tolist()), "queries are shuffled"
        seen |= set(owners)
    assert seen == set(range(16, 24))


def test_labels_of_classes_are_their_numbers_in_training(path):
    by_class, file = source(path, labels="classes"), tablefile.read(path)
    assert by_class.spec().outputs == 12
    for number in range(5):
        task = by_class.sample(ticket(number))
        assert task.query.y.tolist() == classes_of(file, task.query.x), "the classes of train are the first 12"


def test_a_file_says_how_its_rows_were_standardised(path):
    file = tablefile.read(path)
    assert source(path).preparation == file.preparation.saved()
    np.testing.assert_array_equal(file.preparation.prepare(small_table.rows(), "rows"), file.features)
    assert Standardise.restored(json.loads(json.dumps(file.preparation.saved()))) == file.preparation


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1.0, 2.0]], r"x: shape \(1, 2\); expected rows of 6 numbers: c0, c1, c2, c3, c4, …"),
        ([{"c0": 1.0}], "x: a row without the column 'c1'"),
        ([["a"] * 6], "x: rows that are no numbers"),
        ([[1.0] * 6, [1.0] * 5], "x: rows that are no numbers, or of unequal length"),
        ([[1e300] * 6], "x: column 'c0', row 1: 1e.300 is no number, or too large"),
        ([[float("nan")] * 6], "x: column 'c0', row 1: nan is no number"),
    ],
)
def test_rows_that_cannot_be_standardised_are_refused(path, rows, says):
    with pytest.raises(DataError, match=says):
        tablefile.read(path).preparation.prepare(rows, "x")


def test_a_lost_bit_and_metadata_that_do_not_fit_are_found(path, tmp_path):
    data = bytearray(path.read_bytes())
    row = tablefile.read(path).features[3 * small_table.EACH].tobytes()
    data[data.index(row) + 2] ^= 1
    (tmp_path / "bit.arrow").write_bytes(data)
    damaged = source(tmp_path / "bit.arrow")
    with pytest.raises(DataError, match=r"the rows of class 'class 03' \(rows 60 to 79\) are not what was written"):
        [damaged.sample(ticket(number)) for number in range(50)]
    with pa.ipc.open_file(str(path)) as whole:
        batch = whole.get_batch(0)
    told = json.loads(batch.schema.metadata[b"metafleet"])
    for wrong in ({"mean": [0.0]}, {"scale": [0.0] * 6}, {"columns": [1] * 6}, {"kind": "pictures"}):
        about = told | {"preparation": told["preparation"] | wrong}
        changed = batch.replace_schema_metadata({b"metafleet": json.dumps(about)})
        with pa.ipc.new_file(str(tmp_path / "odd.arrow"), changed.schema) as writer:
            writer.write_batch(changed)
        with pytest.raises(DataError, match="has no readable metafleet metadata"):
            tablefile.read(tmp_path / "odd.arrow")


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("name", ["own_table_protonet", "own_table_maml"])
def test_raw_rows_are_served_as_evaluation_has_them(path, tmp_path, mlflow_uri, name):
    changes = [f"source.path={path}", "steps=3", "evaluation.tasks=4", "net.hidden=[16]", "tasks_per_step=4"]
    recipe = load(name, [*changes, "chunk_size=2", f"tracking={{uri: '{mlflow_uri}', report: false}}"])
    ended = train_run(recipe, RunOptions("serial", output=tmp_path / "run"), Onlooker())
    saved = validate_folder(ended.folder)
    assert not saved.open_sizes(), "the saved recipe has numbers"
    components = build_components(saved)
    task = components.source.sample(Ticket(saved.evaluation.seed, "evaluate", "test", 0, 0))
    learner = pipeline.load(ended.folder)
    raw_of = {row.tobytes(): raw for row, raw in zip(tablefile.read(path).features, small_table.rows(), strict=True)}
    raw = [[raw_of[row.tobytes()] for row in batch.x.numpy()] for batch in (task.support, task.query)]
    with torch.no_grad():
        adapted = components.algorithm.adapt(learner.theta, task.support, Context(0, "evaluate", task.ways, {}))
        own = components.algorithm.predict(adapted, task.query.x)
    served = learner.adapt(raw[0], [f"class {slot}" for slot in task.support.y.tolist()]).outputs(raw[1])
    assert_close(torch.from_numpy(served), own, atol=1e-6, rtol=0)
    changes = ["evaluation.split=val", "task.eval.ways=auto", "task.eval.queries=auto"]
    again = evaluate_run(ended.folder, changes, RunOptions("serial"))
    assert [again["evaluation"][key] for key in ("ways", "shots", "queries")] == [4, 5, 15]
