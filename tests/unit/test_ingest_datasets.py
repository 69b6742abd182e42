"""Ingest of folders of the ``datasets`` library: the same pixels as of a folder of the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.core.failures import ConfigError, DataError
from pipeline.tasks.ingest import folder, hf
from pipeline.tasks.ingest.options import Options, TableOptions

NAMES = ["ant", "bee", "cat", "dog", "日本", "fox", "gnu", "hen", "ibis", "jay"]
SMALL = Options(size=8)
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[tuple[str, Path]]:
    """Three pictures of each class, of other sizes and modes."""
    top, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    found = []
    for at, name in enumerate(NAMES):
        (top / name).mkdir()
        for number in range(3):
            path = top / name / f"{number}.png"
            pixels = rng.integers(0, 256, (9 + at, 12, 3), np.uint8)
            Image.fromarray(pixels).convert(("RGB", "L", "RGBA")[number]).save(path)
            found.append((name, path))
    return found


def table_of(files) -> pa.Table:
    pictures = pa.array([{"bytes": path.read_bytes(), "path": path.name} for _, path in files], PICTURE)
    return pa.table({"image": pictures, "label": pa.array([NAMES.index(name) for name, _ in files])})


def saved(place: Path, rows: pa.Table) -> Path:
    """A data set as ``save_to_disk`` lays it out, its rows in two files."""
    place.mkdir(parents=True)
    half = rows.num_rows // 2
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (rows.slice(0, half), rows.slice(half)), strict=True):
        with pa.ipc.new_stream(str(place / name), rows.schema) as writer:
            writer.write_table(part)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return place


def saved_parts(place: Path, **parts: pa.Table) -> Path:
    for name, rows in parts.items():
        saved(place / name, rows)
    (place / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return place


def pictures(place: Path, options: Options = SMALL, image: str = "image") -> folder.Ingested:
    return hf.ingest_pictures(place, place.with_name("out.arrow"), image, "label", options)


def test_a_saved_data_set_is_the_folder_of_its_pictures(files, tmp_path):
    of_folder = folder.ingest(files[0][1].parents[1], tmp_path / "folder.arrow", SMALL).file
    made, notes = pictures(saved(tmp_path / "in", table_of(files)))
    np.testing.assert_array_equal(made.images, of_folder.images)
    assert (made.names, made.splits, made.preparation) == (of_folder.names, of_folder.splits, of_folder.preparation)
    assert [note for note in notes if "converted" in note] == [
        "converted: 10 images from mode L to RGB",
        "converted: 10 images from mode RGBA to RGB",
    ]


def test_the_hubs_parquet_files_are_read_too(files, tmp_path):
    features = {"info": {"features": {"label": {"names": NAMES, "_type": "ClassLabel"}}}}
    rows = table_of(files).replace_schema_metadata({"huggingface": json.dumps(features)})
    (tmp_path / "in" / "data").mkdir(parents=True)
    for name, part in (("train-00000-of-00001", rows.slice(0, 21)), ("test-00000-of-00001", rows.slice(21))):
        parquet.write_table(part, tmp_path / "in" / "data" / f"{name}.parquet")
    made, _ = pictures(tmp_path / "in")
    by_split = {split: [made.names[at] for at in some] for split, some in made.splits["folder"].items()}
    assert by_split == {"train": sorted(NAMES[:7]), "test": sorted(NAMES[7:])}


def test_parts_that_share_classes_are_no_splits_until_shares_are_given(files, tmp_path):
    rows = table_of(files)
    place = saved_parts(tmp_path / "in", train=rows.slice(0, 29), test=rows.slice(29))
    with pytest.raises(
        DataError, match=r"its parts train, test are no splits by class \(1 class \(jay\)\); pass --split"
    ):
        pictures(place)
    made, _ = pictures(place, Options(size=8, split=(0.6, 0.2, 0.2)))
    assert made.summary().splitlines()[:2] == ["10 classes, 30 images of 8×8×3", "split random: 6 train, 2 val, 2 test"]


def test_columns_of_numbers_become_a_table(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 4))
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)
    rows = pa.table({"e": embeddings, "label": pa.array(np.repeat(np.arange(10), 3))})
    place = saved_parts(tmp_path / "in", train=rows.slice(0, 18), validation=rows.slice(18, 6), test=rows.slice(24))
    file, _ = hf.ingest_numbers(place, tmp_path / "out.arrow", TableOptions())
    assert list(file.names) == sorted(NAMES)
    by_split = {split: [file.names[at] for at in some] for split, some in file.splits["given"].items()}
    assert by_split == {"train": sorted(NAMES[:6]), "val": sorted(NAMES[6:8]), "test": sorted(NAMES[8:])}
    first = slice(*file.rows(file.names.index("ant")))
    np.testing.assert_array_equal(file.preparation.prepare(x[:3], "x"), file.features[first])


def test_bad_folders_end_in_one_line(files, tmp_path):
    rows = table_of(files)
    place = saved(tmp_path / "in", rows)
    with pytest.raises(ConfigError, match=r"--image: .* has no column 'img'; it has image, label"):
        pictures(place, image="img")
    bare = rows.set_column(0, "image", pa.array([{"bytes": None, "path": "/a.png"}] * 30, PICTURE))
    with pytest.raises(DataError, match="column 'image', row 1 of all: a path without bytes"):
        pictures(saved(tmp_path / "bare", bare))
    with pytest.raises(DataError, match="neither state.json nor dataset_dict.json, and no Parquet file"):
        pictures(files[0][1].parent)
    (place / "data-00001-of-00002.arrow").write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read as a folder of datasets"):
        pictures(place)
    for listed in ("../data.arrow", "/etc/hostname", ".."):
        (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": listed}]}))
        with pytest.raises(DataError, match="is no name of a file in it"):
            pictures(place)
    shutil.rmtree(place)
    odd = saved(tmp_path / "odd", rows)
    info = json.loads((odd / "dataset_info.json").read_text())
    info["features"]["label"]["names"][0] = "../../out"
    (odd / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="the class '../../out' cannot name a folder"):
        pictures(odd)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "odd"]


@pytest.mark.slow
def test_what_the_library_itself_saves_is_read(files, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    columns = {"image": [str(path) for _, path in files], "label": [name for name, _ in files]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "in")
    of_folder = folder.ingest(files[0][1].parents[1], tmp_path / "folder.arrow", SMALL).file
    np.testing.assert_array_equal(pictures(tmp_path / "in").file.images, of_folder.images)
