"""Ingest of folders and its command: every bad input ends in one line and leaves nothing behind."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import ingest, run
from pipeline.core.failures import ClusterError, ConfigError, DataError
from pipeline.tasks import classfile
from pipeline.tasks.ingest import folder
from pipeline.tasks.ingest.options import Options

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(3)
SMALL = Options(size=8)
SKIP = Options(size=8, skip_unreadable=True)


def draw(path: Path, mode="RGB", size=(12, 9), **options) -> None:
    """A random picture; its file name says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(colours).convert(mode).save(path, **options)


@pytest.fixture
def tree(tmp_path) -> Path:
    """Six good classes of mixed formats, one class with a corrupt file, one empty class and some clutter."""
    root = tmp_path / "animals"
    for name in ("ant", "bee", "cat", "dog", "eel", "fox"):
        for number, ending in enumerate(("png", "jpg", "PNG", "gif", "bmp", "webp")):
            draw(root / name / f"{number}.{ending}", "P" if ending == "gif" else "RGB")
        (root / name / ".hidden.png").write_text("not looked at")
    (root / "gnu" / "readme.txt").parent.mkdir()
    draw(root / "gnu" / "0.png")
    (root / "gnu" / "1.png").write_bytes((root / "gnu" / "0.png").read_bytes()[:60])
    (root / "gnu" / "readme.txt").write_text("a gnu")
    (root / "hen").mkdir()
    return root


def refused(path: Path, to: Path, options: Options = SMALL) -> str:
    """The one line with which ``path`` is refused, and nothing written."""
    with pytest.raises((ConfigError, DataError)) as error:
        folder.ingest(path, to, options)
    assert not to.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_empty_class_and_a_corrupt_file_are_refused(tree, tmp_path):
    to = tmp_path / "animals.arrow"
    said = refused(tree, to)
    assert said == f"{tree}: 1 class (hen) without images; remove the folders or pass --skip-unreadable"
    (tree / "hen").rmdir()
    (tree / "fox" / "6.png").write_text("text")
    (tree / "fox" / "7.jpg").write_bytes(b"")
    (tree / "fox" / "8.webp").write_bytes(b"RIFF")
    said = refused(tree, to)
    assert "animals: 4 unreadable images (fox/6.png (not a PNG, JPEG, BMP, GIF, TIFF or WEBP image); fox/7.jpg" in said
    assert "fox/8.webp" in said
    assert "gnu/1.png" not in said
    assert said.endswith("…); mend them, or leave them out with --skip-unreadable")


def test_both_are_left_out_when_asked(tree, tmp_path):
    file, notes = folder.ingest(tree, tmp_path / "animals.arrow", SKIP)
    assert file.names == ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
    assert np.diff(file.offsets).tolist() == [6] * 6 + [1]
    assert file.images.shape == (37, 8, 8, 3)
    assert notes[0].startswith("left out, unreadable: gnu/1.png (")
    assert notes[1:] == [
        "left out, no images: class hen",
        "ignored: 1 .txt",
        "converted: 6 images from mode P to RGB",
    ]
    split = file.splits["random"]
    assert sorted(sum(split.values(), [])) == list(range(7))
    assert {name: len(indices) for name, indices in split.items()} == {"train": 4, "val": 2, "test": 1}


def test_the_same_folder_and_seed_give_the_same_file(tree, tmp_path):
    first = folder.ingest(tree, tmp_path / "a.arrow", SKIP).file
    again = folder.ingest(tree, tmp_path / "b.arrow", SKIP).file
    other = folder.ingest(tree, tmp_path / "c.arrow", Options(size=8, skip_unreadable=True, seed=1)).file
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()
    assert (first.content, first.source) == (again.content, again.source)
    assert first.source == other.source
    assert first.splits != other.splits


def test_pixels_are_what_pillow_makes_of_the_file(tmp_path):
    for name in ("a", "b", "c"):
        draw(tmp_path / "in" / name / "x.png", size=(30, 20))
    file = folder.ingest(tmp_path / "in", tmp_path / "rgb.arrow", Options(size=10, split=(0.4, 0.3, 0.3))).file
    grey = folder.ingest(tmp_path / "in", tmp_path / "grey.arrow", Options(10, "grey", (0.4, 0.3, 0.3))).file
    with Image.open(tmp_path / "in" / "b" / "x.png") as image:
        assert np.array_equal(file.images[1], image.resize((10, 10), Image.Resampling.LANCZOS))
        assert np.array_equal(grey.images[1], image.convert("L").resize((10, 10), Image.Resampling.LANCZOS))


def test_modes_that_lose_their_meaning_in_a_plain_conversion(tmp_path):
    deep = np.array([[0x0000, 0x8000], [0xC000, 0xFF00]], np.uint16)
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0, 3] = 255
    upright = np.array([[0, 0, 255], [0, 0, 255]], np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    for name, image, options in (
        ("clear", Image.fromarray(clear), {}),
        ("deep", Image.fromarray(deep), {}),
        ("turned", Image.fromarray(upright), {"exif": exif}),
    ):
        (tmp_path / "in" / name).mkdir(parents=True)
        image.save(tmp_path / "in" / name / "x.png", **options)
    file = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", Options(2, "grey", (1, 0, 0))).file
    assert file.images[0].tolist() == [[0, 255], [255, 255]]
    assert file.images[1].tolist() == [[0, 128], [192, 255]]
    assert file.images[2, 0, 0] < file.images[2, 1, 0]
    assert file.splits == {"random": {"train": [0, 1, 2]}}


def test_folders_that_are_splits(tmp_path):
    for place in ("train/ant", "train/dog", "val/bee", "test/cat"):
        draw(tmp_path / "in" / place / "x.png")
    file = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", SMALL).file
    assert file.names == ["ant", "bee", "cat", "dog"]
    assert file.splits == {"folder": {"train": [0, 3], "val": [1], "test": [2]}}
    said = refused(tmp_path / "in", tmp_path / "b.arrow", Options(split=(0.5, 0.25, 0.25)))
    assert said == f"--split: {tmp_path / 'in'} is already split into train, val, test; leave the option out"
    draw(tmp_path / "in" / "test" / "ant" / "x.png")
    assert "1 class (ant in train and test) in two splits" in refused(tmp_path / "in", tmp_path / "b.arrow")
    (tmp_path / "in" / "test" / "ant" / "x.png").unlink()
    (tmp_path / "in" / "test" / "ant").rmdir()
    (tmp_path / "in" / "val" / "bee" / "x.png").write_text("text")
    assert "1 split (val) without a class" in refused(tmp_path / "in", tmp_path / "b.arrow", SKIP)


def test_folders_without_images_say_what_was_seen(tmp_path):
    to = tmp_path / "a.arrow"
    assert "expected a folder with one sub-folder per class" in refused(tmp_path / "none", to)
    (tmp_path / "in").mkdir()
    assert "no images found (looked for CLASS/IMAGE ending in .png" in refused(tmp_path / "in", to)
    assert "saw nothing" in refused(tmp_path / "in", to)
    draw(tmp_path / "in" / "flat.png")
    (tmp_path / "in" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a" / "notes.txt").write_text("")
    assert "saw 1 .png, 1 .txt, 1 folders" in refused(tmp_path / "in", to)


def test_links_in_circles_and_pipes_do_not_hold_it_up(tmp_path):
    for name in ("a", "b", "c"):
        draw(tmp_path / "in" / name / "x.png")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in" / "self")
    (tmp_path / "in" / "a" / "self.png").symlink_to(tmp_path / "in" / "a" / "self.png")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "a" / "pipe.png")
    thirds = Options(8, split=(0.4, 0.3, 0.3), skip_unreadable=True)
    file = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", thirds).file
    assert (file.names, len(file.images)) == (["a", "b", "c"], 3)


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    for place in ("in/a", "in/b", "in/c", "out/d"):
        draw(tmp_path / place / "x.png")
    draw(tmp_path / "in" / "b" / "y.png")
    (tmp_path / "in" / "a" / "inner.png").symlink_to(tmp_path / "in" / "b" / "x.png")
    (tmp_path / "in" / "a" / "outer.png").symlink_to(tmp_path / "out" / "d" / "x.png")
    (tmp_path / "in" / "b" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "out" / "d")
    (tmp_path / "in" / "devices").symlink_to("/dev")
    ingested = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", Options(8, split=(0.4, 0.3, 0.3)))
    assert (ingested.file.names, len(ingested.file.images)) == (["a", "b", "c"], 5)
    assert "ignored: 4 links that lead out of the folder (copy what they name)" in ingested.notes
    (tmp_path / "link").symlink_to(tmp_path / "in")
    again = folder.ingest(tmp_path / "link", tmp_path / "b.arrow", Options(8, split=(0.4, 0.3, 0.3)))
    assert again.file.content == ingested.file.content, "the folder itself may be named by a link"


def test_a_picture_of_too_many_pixels_is_unreadable(tmp_path):
    Image.new("1", (8000, 8001)).save(tmp_path / "big.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for name in ("big", "bomb"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / f"{name}.png").rename(tmp_path / "in" / name / "x.png")
    said = refused(tmp_path / "in", tmp_path / "a.arrow", Options(split=(0.5, 0, 0.5)))
    assert "big/x.png (8000×8001 pixels, the limit is 64 million); bomb/x.png (" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(size=0), "--size: 0 pixels; expected 1 to 1024"),
        (Options(seed=-1), "--seed: -1; expected 0 to"),
        (Options(split=(0.5, 0.5)), "--split: 0.5,0.5; expected three shares that add up to 1"),
        (Options(split=(0.5, 0.2, 0.2)), "--split: 0.5,0.2,0.2; expected three shares"),
        (Options(split=(0.98, 0.01, 0.01)), "of 7 classes leaves val and test empty"),
        (Options(split=(float("nan"), 0.5, 0.5)), "expected three shares"),
    ],
)
def test_options_out_of_range(tree, tmp_path, options, says):
    (tree / "hen").rmdir()
    assert says in refused(tree, tmp_path / "a.arrow", options)


@pytest.fixture
def job(monkeypatch, capfd):
    """Runs the job in this process: its code, and what it printed on stdout and stderr."""

    def go(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jobs.ingest", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(ingest.main)
        return ended.value.code, *capfd.readouterr()

    return go


def test_the_job_ends_in_a_summary_or_one_line(job, tree, tmp_path):
    to = tmp_path / "new" / "animals.arrow"
    code, out, err = job("folder", tree, "--to", to)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tree}: 1 class (hen) without images")
    assert not to.parent.exists()
    code, out, err = job(
        "folder", tree, "--to", to, "--size", 8, "--mode", "grey", "--skip-unreadable", "--split", "0.5,0.2,0.3"
    )
    assert (code, len(err.splitlines())) == (0, 5)
    content = classfile.read(to).content
    assert out.splitlines()[:4] == [
        "7 classes, 37 images of 8×8",
        "split random: 4 train, 1 val, 2 test",
        f"sha256 {content}",
        f"file {to}",
    ]
    assert job("folder", tree, "--split", "half")[0] == 2
    _, _, err = job("omniglot", "--from", tmp_path, "--to", to)
    assert err.startswith(f"error: {tmp_path}/images_background.zip: ")
    assert classfile.read(to).content == content


def test_every_job_ends_with_the_code_of_its_failure(capsys):
    def fail(error: BaseException):
        raise error

    for error, code, printed in (
        (DataError("x.png: bad"), 2, "error: x.png: bad\n"),
        (ClusterError("no GPU"), 3, "error: no GPU\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(functools.partial(fail, error))
        assert (ended.value.code, capsys.readouterr().err) == (code, printed)
    with pytest.raises(SystemExit) as ended:
        run(lambda: None)
    assert ended.value.code == 0


def test_a_job_that_is_interrupted_ends_with_the_code_of_its_signal():
    """In a process of its own: the job ends it without the handlers of its exit."""
    interrupted = "from jobs import run\ndef main():\n    raise KeyboardInterrupt\nrun(main)"
    command = [sys.executable, "-c", interrupted]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped by SIGINT\n")


THIRDS = Options(8, split=(0.4, 0.3, 0.3))


def three(root: Path, *more: str) -> Path:
    for name in ("a", "b", "c", *more):
        draw(root / name / "0.png")
        draw(root / name / "1.png")
    return root


@pytest.mark.parametrize(("bits", "shift"), [(10, 2), (12, 4), (16, 8)])
def test_grey_levels_of_sixteen_bits_are_kept_as_far_as_eight_bits_can(tmp_path, bits, shift):
    ramp = np.arange(0, 1 << bits, 1 << shift, dtype=np.uint16).reshape(16, 16)
    ramp[-1, -1] = (1 << bits) - 1
    three(tmp_path / "in")
    Image.fromarray(ramp).save(tmp_path / "in" / "a" / "2.png")
    made = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", Options(16, "grey", (0.4, 0.3, 0.3)))
    assert len(np.unique(made.file.images[2])) == 256
    assert f"grey levels of {bits} bits: scaled to 8" in made.notes


def test_folders_are_found_however_they_are_spelled_and_nested(tmp_path):
    root = tmp_path / "in"
    for name in ("Train/pets/ant", "Train/pets/bee", "valid/cat", "TEST/dog", "__MACOSX/Train/ant", ".git/x"):
        three(root / name)
    for index, name in enumerate(("Train/pets/ant", "Train/pets/bee", "valid/cat", "TEST/dog")):
        for path in (root / name).rglob("*.png"):
            path.rename(root / name / f"{path.parent.name}{path.stem}.{('tif', 'jfif', 'png')[index % 3]}")
    for path in root.rglob("*.*"):
        if path.suffix in (".tif", ".jfif"):
            draw(path.with_suffix(".tiff" if path.suffix == ".tif" else ".jpg"))
            path.with_suffix(".tiff" if path.suffix == ".tif" else ".jpg").rename(path)
    file = folder.ingest(root, tmp_path / "a.arrow", SMALL).file
    assert file.names == ["cat", "dog", "pets/ant", "pets/bee"]
    assert file.splits["folder"] == {"train": [2, 3], "val": [0], "test": [1]}


def test_two_spellings_of_one_split_are_refused(tmp_path):
    for name in ("train/a", "val/b", "valid/c"):
        draw(tmp_path / "in" / name / "0.png")
    assert "val and valid are both val; merge the folders" in refused(tmp_path / "in", tmp_path / "a.arrow")


def test_small_classes_are_left_out_and_named(tmp_path):
    draw(three(tmp_path / "in") / "tiny" / "0.png")
    made = folder.ingest(tmp_path / "in", tmp_path / "a.arrow", THIRDS.__class__(8, "rgb", THIRDS.split, min_images=2))
    assert made.file.names == ["a", "b", "c"]
    assert "left out, fewer than 2 images: class tiny (1)" in made.notes


def test_copies_are_reported_and_a_class_in_two_splits_is_refused(tmp_path):
    root = three(tmp_path / "in")
    for name in ("a/2.png", "b/2.png"):
        (root / name).write_bytes((root / "a" / "0.png").read_bytes())
    notes = folder.ingest(root, tmp_path / "a.arrow", THIRDS).notes
    assert "duplicates within a class: 1 (a/2.png = a/0.png)" in notes
    assert "duplicates across classes: 1 (b/2.png = a/0.png)" in notes
    for name in ("train/a", "test/copy"):
        (tmp_path / "split" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "split" / name / f"{number}.png").write_bytes((root / "c" / f"{number}.png").read_bytes())
    said = refused(tmp_path / "split", tmp_path / "b.arrow")
    assert "every image of the class 'a' in train is in test too" in said


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_of_fifty_million_pixels_is_read(tmp_path, ending):
    root = three(tmp_path / "in")
    Image.new("RGB", (8192, 6144), "red").save(root / "a" / f"2.{ending}")
    made = folder.ingest(root, tmp_path / "a.arrow", THIRDS)
    assert made.file.images[2].reshape(-1, 3).mean(0) == pytest.approx([254.5, 0, 0], abs=1.5)


def test_classes_to_evaluate_on_alone_need_no_others(tree, tmp_path):
    file, _ = folder.ingest(tree, tmp_path / "a.arrow", Options(size=8, split=(0, 0, 1), skip_unreadable=True))
    assert dict(file.splits["random"]) == {"test": list(range(7))}
    (tmp_path / "new").mkdir()
    tree.rename(tmp_path / "new" / "test")
    file, _ = folder.ingest(tmp_path / "new", tmp_path / "b.arrow", SKIP)
    assert dict(file.splits["folder"]) == {"test": list(range(7))}
    draw(tmp_path / "new" / "test" / "0.png")  # now it is a class, which has images of its own
    file, _ = folder.ingest(tmp_path / "new", tmp_path / "c.arrow", Options(size=8, split=(0, 0, 1)))
    assert file.names == ["test"]
