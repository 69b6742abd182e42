"""Omniglot's ingest: the real one through its job, and zips that are anything else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.failures import DataError
from pipeline.tasks import classfile
from pipeline.tasks.ingest import omniglot

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "omniglot"
BACKGROUND, EVALUATION = omniglot.ARCHIVES


@pytest.fixture(scope="module")
def zips() -> Path:
    if not all((DATA / name).is_file() for name in omniglot.ARCHIVES):
        pytest.skip(f"Omniglot's two zips are not in {DATA}")
    return DATA


@pytest.fixture(scope="module")
def ingested(zips, tmp_path_factory) -> tuple[classfile.ClassFile, str]:
    """The file, and what the job printed."""
    to = tmp_path_factory.mktemp("omniglot") / "new" / "omniglot.arrow"
    command = [sys.executable, "-m", "jobs.ingest", "omniglot", "--from", str(zips), "--to", str(to)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in to.parent.iterdir()] == ["omniglot.arrow"]
    return classfile.read(to), done.stdout


@pytest.mark.data
@pytest.mark.slow
def test_1623_classes_of_20_drawings_and_the_summary(ingested):
    file, printed = ingested
    assert file.images.shape == (1623 * 20, 28, 28)
    assert set(np.diff(file.offsets)) == {20}
    assert file.names == sorted(file.names)
    assert len({name.split("/")[0] for name in file.names}) == 50
    assert file.names[0] == "Alphabet_of_the_Magi/character01"
    assert "1623 classes, 32460 images of 28×28\n" in printed
    assert "split random: 1100 train, 100 val, 423 test\n" in printed
    assert "split background: 829 train, 135 val, 659 test\n" in printed
    assert f"sha256 {file.content}\n" in printed


@pytest.mark.data
@pytest.mark.slow
def test_splits_cover_all_classes_and_share_no_alphabet(ingested):
    file, _ = ingested
    for split_set in file.splits.values():
        assert sorted(sum(split_set.values(), [])) == list(range(1623))
    alphabets = {
        split: {file.names[index].split("/")[0] for index in indices}
        for split, indices in file.splits["background"].items()
    }
    assert {split: len(names) for split, names in alphabets.items()} == {"train": 25, "val": 5, "test": 20}
    assert alphabets["val"] == set(omniglot.VALIDATION_ALPHABETS)
    assert len(set.union(*alphabets.values())) == 50
    # The draw of the random split is part of what every published number here means.
    assert file.splits["random"]["test"][:5] == [7, 8, 9, 13, 15]


@pytest.mark.data
@pytest.mark.slow
def test_ink_is_one_and_pixels_are_pillow_s(ingested, zips):
    file, _ = ingested
    assert file.images.max() == 255
    assert 0.05 < file.images.mean() / 255 < 0.15
    with zipfile.ZipFile(zips / EVALUATION) as opened:
        drawings = sorted(
            name for name in opened.namelist() if "/Tengwar/character07/" in name and name.endswith("png")
        )
        image = Image.open(io.BytesIO(opened.read(drawings[4]))).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    row = file.offsets[file.names.index("Tengwar/character07")] + 4
    assert np.array_equal(file.images[row], 255 - np.asarray(image))


@pytest.mark.data
@pytest.mark.slow
def test_again_and_from_zips_in_another_order_the_content_is_the_same(ingested, zips, tmp_path):
    """``test_ingest`` shows of a folder that reading it again gives the same file."""
    file, _ = ingested
    archives = omniglot.from_folder(zips)
    with zipfile.ZipFile(zips / BACKGROUND) as opened:
        drawings = {name: opened.read(name) for name in opened.namelist() if name.endswith(".png")}
    reordered = {BACKGROUND: packed(dict(reversed(drawings.items()))), EVALUATION: archives[EVALUATION]}
    again = omniglot.ingest(reordered, tmp_path / "again.arrow")
    assert again.content == file.content
    assert again.source != file.source


@pytest.mark.data
def test_the_pinned_hashes_are_those_of_the_real_zips(zips, monkeypatch):
    monkeypatch.setattr(omniglot, "UPSTREAM", zips.as_uri())
    assert omniglot.download() == omniglot.from_folder(zips)


def packed(entries: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in entries.items():
            opened.writestr(name, data)
    return made.getvalue()


def png(side: int) -> bytes:
    made = io.BytesIO()
    Image.new("1", (side, side)).save(made, "PNG")
    return made.getvalue()


def refused(background: bytes, evaluation: bytes, to: Path) -> str:
    with pytest.raises(DataError) as error:
        omniglot.ingest({BACKGROUND: background, EVALUATION: evaluation}, to)
    assert list(to.parent.iterdir()) == []
    assert "\n" not in str(error.value)
    return str(error.value)


def test_zips_that_are_not_omniglot_are_refused(tmp_path):
    to, drawing = tmp_path / "a.arrow", png(105)
    some = packed({f"images_background/Latin/character01/{number:02}.png": drawing for number in range(19)})
    assert "images_background.zip: is not a readable zip" in refused(b"no zip", some, to)
    assert "images_evaluation.zip: is not a readable zip" in refused(some, some[:-30], to)
    assert "hold 1 characters, 1 of them without 20 drawings: Latin/character01; expected 1623 of 20" in refused(
        some, packed({"readme.txt": b""}), to
    )
    bomb = packed({"images_background/Latin/character01/0.png": bytes(1 << 24)})
    assert "has 1 images of up to 16777216 bytes, which is not Omniglot" in refused(bomb, some, to)
    flipped = bytearray(some)
    flipped[flipped.find(b"character01/03.png") + 30] ^= 0xFF
    assert "images_background.zip: is not a readable zip" in refused(bytes(flipped), some, to)


def test_a_drawing_that_is_none_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(omniglot, "CLASSES", 2)
    good = {f"images_background/A/character01/{number:02}.png": png(105) for number in range(20)}
    other = packed({name.replace("A", "B"): data for name, data in good.items()})
    for bad, says in (
        (png(104), "A/character01: a drawing has (104, 104) pixels, Omniglot's have (105, 105)"),
        (b"text", "A/character01: a drawing cannot be read ("),
    ):
        background = packed({**good, "images_background/A/character01/07.png": bad})
        assert says in refused(background, other, tmp_path / "a.arrow")


@pytest.mark.parametrize("upstream", ["http://127.0.0.1:9", "file:///nowhere", "no url"])
def test_a_failed_download_names_the_url_and_the_way_out(monkeypatch, upstream):
    monkeypatch.setattr(omniglot, "UPSTREAM", upstream)
    with pytest.raises(
        DataError, match=f"^{upstream}/{BACKGROUND}: download failed .*pass their folder with --from PATH"
    ):
        omniglot.download()


def test_a_download_of_something_else_is_refused(monkeypatch, tmp_path):
    (tmp_path / BACKGROUND).write_bytes(b"sign in to continue")
    monkeypatch.setattr(omniglot, "UPSTREAM", tmp_path.as_uri())
    with pytest.raises(DataError, match=f"{BACKGROUND}: has sha256 .*, expected 67ade8c6c15c….*--from PATH"):
        omniglot.download()
    monkeypatch.setattr(omniglot, "_MAX_ARCHIVE_BYTES", 8)
    with pytest.raises(DataError, match=f"{BACKGROUND}: is larger than"):
        omniglot.download()


def test_a_pipe_for_a_zip_is_refused_and_not_waited_for(tmp_path):
    for name in omniglot.ARCHIVES:
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is no regular file; --from takes the folder that holds"):
        omniglot.from_folder(tmp_path)


def test_a_folder_without_the_zips_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"{BACKGROUND}: No such file.*--from takes the folder that holds"):
        omniglot.from_folder(tmp_path)
