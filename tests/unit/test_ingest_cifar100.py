"""CIFAR-100's ingest: made pictures in its folders, two to a class, the published splits, and anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import ingest as job
from pipeline.core.failures import DataError
from pipeline.tasks import classfile
from pipeline.tasks.ingest import cifar100

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar-fs"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """One picture of each class in either half."""
    folder = tmp_path_factory.mktemp("cifar100")
    for half in cifar100.HALVES:
        for number, name in enumerate(cifar100.NAMES):
            place = folder / half / name
            place.mkdir(parents=True)
            pixels = np.full((32, 32, 3), number, np.uint8)
            pixels[0, 0] = (200, 100, 0) if half == "train" else (0, 100, 200)
            Image.fromarray(pixels).save(place / f"{name}_s_000001.png")
    return folder


@pytest.fixture(autouse=True)
def small_halves(monkeypatch):
    monkeypatch.setattr(cifar100, "HALVES", {"train": 1, "test": 1})


def test_both_halves_are_pooled_and_the_job_says_what_there_is(made, tmp_path, monkeypatch, capsys):
    to = tmp_path / "cifar100.arrow"
    monkeypatch.setattr("sys.argv", ["jobs.ingest", "cifar100", "--from", str(made), "--to", str(to)])
    job.main()
    file = classfile.read(to)
    assert file.names == sorted(file.names) == cifar100.NAMES
    assert set(np.diff(file.offsets)) == {2}
    assert file.images.shape == (200, 32, 32, 3)
    assert file.images[:, 0, 0].tolist() == [[200, 100, 0], [0, 100, 200]] * 100
    assert (file.images[:, 1:].reshape(200, -1) == np.arange(100).repeat(2)[:, None]).all()
    printed = capsys.readouterr().out
    assert "100 classes, 200 images of 32×32×3\n" in printed
    assert "split cifar-fs: 64 train, 16 val, 20 test\n" in printed
    assert "split fc100: 60 train, 20 val, 20 test\n" in printed
    assert f"sha256 {file.content}\n" in printed


def test_each_split_set_has_all_classes_and_fc100_shares_no_superclass(made, tmp_path):
    file, _ = cifar100.ingest(made, tmp_path / "cifar100.arrow")
    for split_set in file.splits.values():
        assert sorted(sum(split_set.values(), [])) == list(range(100))
    group_of = {name: group for group, members in cifar100.SUPERCLASSES.items() for name in members.split()}
    groups = [{group_of[file.names[at]] for at in some} for some in file.splits["fc100"].values()]
    assert [len(some) for some in groups] == [12, 4, 4]
    assert len(set.union(*groups)) == 20


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda folder: shutil.rmtree(folder / "test" / "bear"),
            r"test: 1 wrong class \(bear: missing\); expected the",
        ),
        (lambda folder: (folder / "train" / "bear").rename(folder / "train" / "Bear"), r"bear: missing; Bear: unknown"),
        (
            lambda folder: shutil.copy(folder / "train/bear/bear_s_000001.png", folder / "train/bear/b.png"),
            r"train: 1 wrong class \(bear: 2\); expected the 100 classes of CIFAR-100 with 1 pictures each",
        ),
        (
            lambda folder: (folder / "test/bear/bear_s_000001.png").write_bytes(b"no picture"),
            r"test/bear/bear_s_000001\.png cannot be read \(not a .* image\); fetch it again",
        ),
        (lambda folder: shutil.rmtree(folder / "test"), r"test: No such file or directory"),
    ],
)
def test_anything_else_is_refused_in_one_line_and_nothing_is_written(made, tmp_path, spoil, says):
    folder, to = shutil.copytree(made, tmp_path / "copy"), tmp_path / "to" / "cifar100.arrow"
    spoil(folder)
    with pytest.raises(DataError, match=says) as refused:
        cifar100.ingest(folder, to)
    assert "\n" not in str(refused.value)
    assert not to.parent.exists()


@pytest.mark.data
def test_the_splits_are_the_published_ones(made, tmp_path):
    if not (DATA / "splits.json").is_file():
        pytest.skip(f"the lists of classes are not in {DATA}")
    published = json.loads((DATA / "splits.json").read_text())
    file, _ = cifar100.ingest(made, tmp_path / "cifar100.arrow")
    for called, split_set in file.splits.items():
        names = {split: [file.names[at] for at in some] for split, some in split_set.items()}
        assert names == {split: sorted(some) for split, some in published[called].items()}
