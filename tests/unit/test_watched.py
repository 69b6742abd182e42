"""A data file that changes while a run uses it: one line at the next task, whatever happened to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.failures import DataError, PipelineError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.tasks import classfile, watched
from pipeline.tasks.images import Images
from tests import quiet_runs
from tests.runtime import tiny
from tests.unit.crashing import exit_codes

TEST_CLASS, TRAIN_CLASS = 20, 3
SHAPE = TaskShape(ways=3, shots=1, queries=2)


@pytest.fixture
def path(small_images, tmp_path) -> Path:
    return Path(shutil.copy(small_images, tmp_path / "images.arrow"))


def damage(path: Path, index: int, *, secretly: bool = False) -> None:
    """Zeros over the images of a class, in place; ``secretly`` with the time of before."""
    file, before = classfile.read(path), path.stat()
    pixels = file.images[file.offsets[index] : file.offsets[index + 1]].tobytes()
    at = path.read_bytes().index(pixels)
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(bytes(len(pixels)))
    moment = before.st_mtime_ns + (0 if secretly else 1_000_000_000)
    os.utime(path, ns=(moment, moment))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    file = classfile.read(path)
    counts = np.diff(file.offsets).tolist()
    classfile.write(path, file.images ^ 1, counts, file.names, file.splits, "other")


def opened(path: Path) -> Callable[[int], object]:
    """A source that has given its first task, and gives any other."""
    images = Images(Images.Config(str(path)), TaskShapes(train=SHAPE, eval=SHAPE))
    images.sample(Ticket(7, "train", "train", 1, 0))
    return lambda number: images.sample(Ticket(7, "train", "train", 1, number))


@pytest.mark.parametrize("index", [TRAIN_CLASS, TEST_CLASS])
def test_damage_anywhere_is_told_at_the_next_task(path, index):
    sample = opened(path)
    damage(path, index)
    with pytest.raises(DataError, match=rf"images.arrow: the images of class 'pattern {index:02}' .* are not what was"):
        sample(1)


def test_damage_that_leaves_size_and_time_is_told_when_the_class_is_checked_again(path, monkeypatch):
    monkeypatch.setattr(watched, "AGAIN", 2)
    sample = opened(path)
    for number in range(12):  # every training class has been used
        sample(number)
    damage(path, TRAIN_CLASS, secretly=True)
    with pytest.raises(DataError, match=f"class 'pattern {TRAIN_CLASS:02}'"):
        [sample(number) for number in range(400)]


def test_a_checksum_costs_little_beside_what_is_drawn(path, monkeypatch):
    checked: list[int] = []
    monkeypatch.setattr(classfile.ClassFile, "is_whole", lambda _, index: checked.append(index) or True)
    sample = opened(path)
    for number in range(400):
        sample(number)
    drawn = 401 * SHAPE.ways * (SHAPE.shots + SHAPE.queries)
    assert 20 * len(checked) <= 20 * 12 + drawn / watched.AGAIN


def cut_and_sample(path: str) -> None:
    sample = opened(Path(path))
    cut(Path(path))
    try:
        sample(1)
    except PipelineError as error:
        Path(path).with_name("why").write_text(str(error))
        os._exit(error.exit_code)


def test_a_file_that_is_cut_ends_in_one_line_and_not_by_a_signal(path):
    size = path.stat().st_size
    assert exit_codes(cut_and_sample, (str(path),)) == [DataError.exit_code]
    said = path.with_name("why").read_text()
    assert f"images.arrow: was cut from {size} to {size // 2} bytes while it was used" in said
    assert "\n" not in said


def test_other_data_of_the_same_name_are_told(path):
    sample = opened(path)
    replace(path)
    with pytest.raises(DataError, match="images.arrow: was replaced by other data while it was used; put it back"):
        sample(1)


def test_a_file_that_was_replaced_by_rubbish_is_told(path):
    sample = opened(path)
    path.rename(path.with_name("old"))
    path.write_text("no images")
    with pytest.raises(DataError, match="images.arrow: is truncated or not an Arrow file"):
        sample(1)


@pytest.mark.parametrize("harmless", ["touch", "again", "gone"])
def test_what_changes_no_pixel_is_no_matter(path, small_images, harmless):
    sample = opened(path)
    expected = opened(small_images)(1)
    if harmless == "touch":
        os.utime(path, ns=(1, 1))
    elif harmless == "again":
        shutil.copy(small_images, path.with_name("again"))
        path.with_name("again").replace(path)
    else:
        path.unlink()
    assert sample(1).support.x.equal(expected.support.x)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("torch_threads")
def test_a_run_ends_at_the_step_in_which_its_data_were_damaged(path, tmp_path):
    def spoil(step: int) -> None:
        if step == 2:
            damage(path, TEST_CLASS)

    seen: list[int] = []
    recipe = tiny.recipe("protonet", path, 5)
    with pytest.raises(DataError, match=f"class 'pattern {TEST_CLASS}'"):
        quiet_runs.run(recipe, tmp_path / "run", 0, after=lambda step: (seen.append(step), spoil(step)))
    assert seen == [1, 2]
