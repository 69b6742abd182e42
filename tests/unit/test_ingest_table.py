"""Ingest of tables: each bad file ends in one line that names the column and the row, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.core.failures import ConfigError, DataError
from pipeline.tasks import tablefile
from pipeline.tasks.ingest import table
from pipeline.tasks.ingest.options import TableOptions

NAMES = ["ä", "日本", "NA", "001", "e e", "f", "g", "h", "i", "j"]
"""A country, a number with zeros before it, and names that are not ASCII."""
ROWS = [(name, 10 * at + row, 1000.0 * row + 0.5 * at) for at, name in enumerate(NAMES) for row in range(3)]
TEXT = "label,x,y\n" + "".join(f"{name},{x},{y}\n" for name, x, y in ROWS)


def saved(folder: Path, text: str | bytes, name: str = "in.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def ingested(path: Path, **options) -> tuple[tablefile.TableFile, list[str]]:
    return table.ingest(path, path.with_name("out.arrow"), TableOptions(**options))


def raw_of(file: tablefile.TableFile) -> np.ndarray:
    return file.features * file.preparation.scale + file.preparation.mean


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_is_read_as_it_stands(tmp_path, encoding):
    file, notes = ingested(saved(tmp_path, TEXT.encode(encoding)))
    assert list(file.names) == sorted(NAMES)
    assert file.preparation.columns == ["x", "y"]
    assert np.diff(file.offsets).tolist() == [3] * 10
    wanted = np.array([(x, y) for name in sorted(NAMES) for other, x, y in ROWS if other == name])
    np.testing.assert_allclose(raw_of(file), wanted, atol=1e-3)
    assert {split: len(some) for split, some in file.splits["random"].items()} == {"train": 6, "val": 2, "test": 2}
    assert notes == []


def test_numbers_are_standardised_by_the_training_classes_alone(tmp_path):
    file, _ = ingested(saved(tmp_path, TEXT), seed=3)
    training = np.concatenate([file.features[slice(*file.rows(index))] for index in file.splits["random"]["train"]])
    np.testing.assert_allclose(training.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(training.std(0), 1, atol=1e-6)
    assert abs(file.features.mean(0)).max() > 0.05
    raw = [{"y": y, "x": x, "unused": "text"} for name, x, y in ROWS if name == file.names[0]]
    np.testing.assert_array_equal(file.preparation.prepare(raw, "rows"), file.features[slice(*file.rows(0))])


def test_the_same_file_gives_the_same_bytes_and_parquet_and_npz_the_same_rows(tmp_path):
    first, _ = ingested(saved(tmp_path, TEXT))
    again, _ = ingested(saved(tmp_path, TEXT))
    assert again.content == first.content
    labels, x, y = zip(*ROWS, strict=True)
    columns = {"x": pa.array(x, pa.int16()), "label": pa.array(labels).dictionary_encode(), "y": pa.array(y)}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    of_parquet, _ = ingested(tmp_path / "in.parquet")
    np.savez(tmp_path / "in.npz", x=np.column_stack([x, y]), y=np.array(labels))
    of_npz, _ = ingested(tmp_path / "in.npz")
    for other in (of_parquet, of_npz):
        np.testing.assert_array_equal(other.features, first.features)
        assert (other.names, other.splits) == (first.names, first.splits)
    assert of_npz.preparation.columns == ["x[0]", "x[1]"]


@pytest.mark.parametrize("width", [None, 2])
def test_a_column_of_lists_is_as_many_columns(tmp_path, width):
    kind = pa.list_(pa.float32()) if width is None else pa.list_(pa.float32(), width)
    columns = {"label": [name for name, *_ in ROWS], "e": pa.array([[x, y] for _, x, y in ROWS], kind)}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    file, _ = ingested(tmp_path / "in.parquet")
    assert file.preparation.columns == ["e[0]", "e[1]"]
    np.testing.assert_array_equal(file.features, ingested(saved(tmp_path, TEXT))[0].features)


def given(split_of) -> str:
    return "label,split,x\n" + "".join(f"{name},{split_of(at)},{x}\n" for at, (name, x, _) in enumerate(ROWS))


def test_a_column_split_says_which_class_is_where(tmp_path):
    path = saved(tmp_path, given(lambda at: ("train", "Valid", "test")[at // 12]))
    file, _ = ingested(path)
    assert {split: [file.names[i] for i in some] for split, some in file.splits["given"].items()} == {
        "train": sorted(NAMES[:4]),
        "val": sorted(NAMES[4:8]),
        "test": sorted(NAMES[8:]),
    }
    assert "already split into train, val, test" in refused(path, split=(0.5, 0.2, 0.3))
    free, notes = ingested(path, leave_out=("split",))
    assert list(free.splits) == ["random"]
    assert notes == ["left out: column split"]


def test_a_class_in_two_splits_and_an_unknown_split_are_refused(tmp_path):
    assert "1 class (ä in train and test) in two splits" in refused(
        saved(tmp_path, given(lambda at: "test" if at == 1 else "train"))
    )
    odd = refused(saved(tmp_path, given(lambda at: "dev" if at == 4 else "train")))
    assert "column 'split', row 5: 'dev'; expected train, val or test" in odd


def refused(path: Path, **options) -> str:
    """The one line with which a file is refused; what was there before is left."""
    to = path.with_name("out.arrow")
    before = to.read_bytes() if to.exists() else None
    with pytest.raises((ConfigError, DataError)) as error:
        ingested(path, **options)
    assert (to.read_bytes() if to.exists() else None) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (TEXT + "k,,2\nk,NaN,inf\n", {}, "3 values are missing or not finite, in 2 .* is column 'x', row 31"),
        (TEXT + "k,1,zwei\n", {}, "column 'y', row 31: 'zwei' is no number; mend it, or use --leave-out y"),
        (TEXT + "k,1\n", {}, "Expected 3 columns, got 2"),
        (TEXT + ",1,2\n", {}, "column 'label' is empty in 1 rows, first in row 31"),
        (TEXT.encode() + b"\xff,1,2\n", {}, "is not in UTF-8; save it as UTF-8"),
        (TEXT, {"label": "lable"}, "--label: .* has no column 'lable'; did you mean label?"),
        (TEXT, {"leave_out": ("z",)}, "--leave-out: .* has no column 'z'; it has label, x, y"),
        (TEXT, {"leave_out": ("x", "y")}, "no column beside the label"),
        (TEXT.replace("y", "x", 1), {}, "two columns are named 'x'"),
        ("label,x\n", {}, "no rows"),
        ("", {}, "Empty CSV file"),
        ("label,x\na,1\na,2\n", {}, "1 class in the column of labels; a task needs 2 or more"),
        (TEXT, {"min_rows": 4}, "no class of 4 rows or more"),
        (TEXT, {"min_rows": 0}, "--min-rows: 0; expected 1 or more"),
        (TEXT, {"split": (0.5, 0.2, 0.2)}, "--split: 0.5,0.2,0.2; expected three shares that add up to 1"),
        (TEXT, {"split": (0.0, 0.0, 1.0)}, "no training classes .*; pass --like FILE"),
        ("label,x,y\n" + "".join(f"{n},{x},7\n" for n in "abcde" for x in (1, 2)), {}, "every row of the class 'a'"),
    ],
)  # fmt: skip
def test_bad_csv_files_are_refused(tmp_path, text, options, says):
    assert re.search(says, refused(saved(tmp_path, text), **options))


def savez(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_objects_in_an_npz_are_never_unpickled(tmp_path):
    planted = np.array([Planted(tmp_path / "planted")] * 30, dtype=object)
    path = savez(tmp_path / "in.npz", x=np.ones((30, 2)), y=planted)
    assert "the array 'y' holds Python objects, which are not read because they may run code" in refused(path)
    assert not (tmp_path / "planted").exists()


def test_bad_npz_files_are_refused(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.repeat(np.arange(10), 3)
    path = tmp_path / "in.npz"
    assert "y has the shape (29,) beside x of (30, 2)" in refused(savez(path, x=x, y=y[1:]))
    assert "has no array 'y'" in refused(savez(path, x=x))
    assert "x is float64 of shape (30,)" in refused(savez(path, x=x[:, 0], y=y))
    assert "holds double; expected labels that are text or whole numbers" in refused(savez(path, x=x, y=y / 2))
    assert "cannot be read as .npz" in refused(saved(tmp_path, b"junk", "in.npz"))
    whole = savez(path, x=x, y=y).read_bytes()
    assert "cannot be read as .npz" in refused(saved(tmp_path, whole[: len(whole) // 2], "in.npz"))


def test_other_bad_files_are_refused(tmp_path):
    assert "expected a file that ends in .csv, .tsv, .parquet, .npz" in refused(saved(tmp_path, "a", "in.txt"))
    assert "No such file or directory" in refused(tmp_path / "gone.csv")
    assert "cannot be read as Parquet" in refused(saved(tmp_path, b"PAR1junk", "in.parquet"))
    columns = {"label": list("abcde") * 2, "e": [[1.0, 2.0]] * 9 + [[1.0]]}
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert "lists of unequal length: 2 in row 1 and 1 in row 10" in refused(tmp_path / "in.parquet")
    columns["e"][9] = None
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert "2 values are missing or not finite, in 1 columns; the first is column 'e', row 10" in refused(
        tmp_path / "in.parquet"
    )


def test_what_is_left_out_and_what_is_equal_is_told(tmp_path):
    more = "k,5,5\n" + "ä,0,0.0\n" + "l,7,7\nl,8,8\n"
    file, notes = ingested(saved(tmp_path, TEXT.replace("label,x,y", "label,x,y") + more), min_rows=2)
    assert "k" not in file.names
    assert "l" in file.names
    assert notes == ["left out, fewer than 2 rows: class k (1)", "duplicates within a class: 1 (row 32 = row 1)"]


def test_a_new_table_is_standardised_as_that_of_training(tmp_path):
    old, _ = ingested(saved(tmp_path, TEXT))
    new = saved(tmp_path, "label,x,y\na,1,2\na,3,4\nb,5,6\nb,7,8\n", "new.csv")
    trained = tmp_path / "out.arrow"
    made = table.ingest(new, tmp_path / "new.arrow", TableOptions(split=(0.0, 0.0, 1.0), like=trained))
    assert made.file.preparation == old.preparation
    np.testing.assert_allclose(raw_of(made.file), [[1, 2], [3, 4], [5, 6], [7, 8]], atol=1e-3)
    assert dict(made.file.splits["random"]) == {"test": [0, 1]}
    other = saved(tmp_path, "label,x,z\na,1,2\nb,3,4\n", "other.csv")
    with pytest.raises(DataError, match="has the columns x, z, and --like .* has x, y"):
        table.ingest(other, tmp_path / "new.arrow", TableOptions(split=(0.0, 0.0, 1.0), like=trained))


def test_the_command_ends_in_a_report_and_the_next_command(tmp_path):
    path = saved(tmp_path, TEXT)
    command = [sys.executable, "-m", "jobs.ingest", "table", str(path), "--to", str(tmp_path / "own.arrow")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[4:] == [
        "rows of a class: 3 to 3, median 3",
        "the largest tasks of train: 6 ways, 3 shots + queries",
        "the largest tasks of val: 2 ways, 3 shots + queries",
        "the largest tasks of test: 2 ways, 3 shots + queries",
        "own recipes take: train 6 ways, 1 shots, 2 queries; eval 2 ways, 1 shots, 2 queries",
        f"next: python -m jobs.train own_table_protonet source.path={tmp_path / 'own.arrow'} source.split=random",
    ]
