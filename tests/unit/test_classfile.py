"""The class-indexed image file: mapped without a copy, whole or absent, and refused in one line where it is bad."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.failures import DataError
from pipeline.tasks import classfile

COUNTS, NAMES = [2, 3, 4], ["a", "b", "c"]
PIXELS = np.random.default_rng(3).integers(0, 256, (9, 5, 5), dtype=np.uint8)
SPLITS = {"random": {"train": [0, 2], "test": [1]}, "other": {"train": [0], "val": [1], "test": [2]}}


def batch(**about) -> pa.RecordBatch:
    """What a good file of two classes holds, with changes to its metadata."""
    image = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((3, 5, 5), np.uint8))
    splits = {"random": {"train": [0], "test": [1]}}
    facts = {"format": 2, "names": ["a", "b"], "offsets": [0, 1, 3], "splits": splits, "source": "s", "content": "c"}
    facts["checksums"] = [zlib.crc32(bytes(25)), zlib.crc32(bytes(50))]
    made = pa.record_batch([image, pa.array([0, 1, 1], pa.int32())], ["image", "label"])
    return made.replace_schema_metadata({b"metafleet": json.dumps(facts | about)})


def saved(path, *batches: pa.RecordBatch, **options) -> None:
    with pa.ipc.new_file(str(path), batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for each in batches:
            writer.write_batch(each)


def test_a_good_file_is_mapped_and_not_copied(tmp_path):
    saved(tmp_path / "good.arrow", batch())
    assert classfile.read(tmp_path / "good.arrow").offsets.tolist() == [0, 1, 3]
    classfile.write(tmp_path / "written.arrow", PIXELS, COUNTS, NAMES, SPLITS, "source")
    before = pa.total_allocated_bytes()
    file = classfile.read(tmp_path / "written.arrow")
    assert pa.total_allocated_bytes() == before
    assert not file.images.flags.writeable
    assert np.array_equal(file.images, PIXELS)
    assert all(map(file.is_whole, range(3)))


def columns(*names: str) -> pa.RecordBatch:
    return pa.record_batch([batch().column(0)] * len(names), list(names)).replace_schema_metadata(
        batch().schema.metadata
    )


def column(index: int, values: pa.Array) -> pa.RecordBatch:
    return batch().set_column(index, batch().schema.names[index], values)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: path.write_bytes(b""), "is truncated or not an Arrow file"),
        (lambda path: path.write_text("no arrow"), "is truncated or not an Arrow file"),
        (lambda path: path.mkdir(), "is truncated or not an Arrow file"),
        (lambda path: (saved(path, batch()), path.write_bytes(path.read_bytes()[:-20])), "is truncated or not"),
        (lambda path: saved(path, columns("image", "lable")), "has the columns image, lable, expected image, label"),
        (lambda path: saved(path, column(1, pa.array([0, 1, 1]))), "has labels of type int64, expected int32"),
        (lambda path: saved(path, column(1, pa.array([0, 1, None], pa.int32()))), "has null rows"),
        (lambda path: saved(path, column(1, pa.array([1, 0, 1], pa.int32()))), "has rows that are not sorted by class"),
        (
            lambda path: saved(path, column(0, pa.array([b"1", b"2", b"3"]))),
            "has images of type binary, expected fixed",
        ),
        (lambda path: saved(path, batch(), batch()), "has 2 record batches, expected 1"),
        (lambda path: saved(path, batch(), compression="zstd"), "is compressed, so it cannot be mapped"),
        (lambda path: saved(path, batch().replace_schema_metadata({})), "has no readable metafleet metadata"),
        (lambda path: saved(path, batch(format=1)), "is in format 1, this version reads 2"),
        (lambda path: saved(path, batch(checksums=[1])), "has checksums that do not fit its class names"),
        (lambda path: saved(path, batch(checksums=[1, "2"])), "has checksums that do not fit its class names"),
        (lambda path: saved(path, batch(names=["a"])), "has class offsets that do not fit its class names"),
        (lambda path: saved(path, batch(names=["a", 1])), "has names or hashes that are not text"),
        (lambda path: saved(path, batch(offsets=[0, 1, 4])), "has class offsets that do not run from 0 to its 3 rows"),
        (lambda path: saved(path, batch(offsets=[0, 0, 3])), "has class offsets that do not fit"),
        (
            lambda path: saved(path, batch(splits={"random": {"train": [0], "test": [0]}})),
            "a class that is twice in it",
        ),
        (lambda path: saved(path, batch(splits={"random": {"train": [2]}})), "or does not exist"),
        (
            lambda path: saved(path, batch(splits={"random": {"training": [0]}})),
            "an empty or unknown split in 'random'",
        ),
        (lambda path: saved(path, batch(splits=[])), "has no readable metafleet metadata"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, write, says):
    bad = tmp_path / "bad.arrow"
    write(bad)
    with pytest.raises(DataError, match="bad.arrow: .*make it again with `python -m jobs.ingest`") as refused:
        classfile.read(bad)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_content_is_pixels_names_and_splits_and_nothing_else(tmp_path):
    def content(name, flipped=0, counts=COUNTS, names=NAMES, splits=SPLITS, source="source"):
        return classfile.write(tmp_path / name, PIXELS ^ flipped, counts, names, splits, source).content

    first = content("a.arrow")
    assert content("b.arrow", source="elsewhere") == first
    others = [content("c.arrow", flipped=1), content("d.arrow", names=NAMES[::-1])]
    others += [
        content("e.arrow", splits={"random": SPLITS["random"]}),
        content("f.arrow", counts=[*COUNTS[1:], COUNTS[0]]),
    ]
    assert len({first, *others}) == 5


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match=r"file/images.arrow: cannot be written .*choose another place with --to"):
        classfile.write(tmp_path / "file" / "images.arrow", PIXELS, COUNTS, NAMES, SPLITS, "source")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be written"):
        classfile.write(tmp_path / "folder", PIXELS, COUNTS, NAMES, SPLITS, "source")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
