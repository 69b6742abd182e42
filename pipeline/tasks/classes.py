"""The classes of one split set of a class-indexed Arrow file, from which image sources draw tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape
from pipeline.tasks import classfile
from pipeline.tasks.classfile import Pixels
from pipeline.tasks.watched import WatchedFile

QUARTERS = 4

Rotations = Literal["none", "classes", "random"]
"""``classes``: each quarter turn of a class is a class of its own (ProtoNet, Reptile in training). ``random``: one turn
drawn per class and task, so turns of one class never compete (MAML). They give different numbers: say which."""


class Classes:
    """Draws ``ways`` classes of a split without replacement, then ``shots + queries`` images of each likewise.

    Classes are drawn from their sorted indices and images from the rows of their class, so the generator alone decides.
    Quarter turns are counter-clockwise. W ways, N images of each.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
    """

    def __init__(self, path: Path, split_set: str) -> None:
        if not path.is_file():
            raise DataError(
                f"source.path: {path} does not exist; make it with `python -m jobs.ingest omniglot --from download"
                f" --to {path}`, or with `python -m jobs.ingest folder PATH --to {path}` from images of your own"
            )
        self._path, self._split_set = path, split_set
        self._watched = WatchedFile(path, classfile.read)
        self._file = self._watched.file
        self._offsets: list[int] = self._file.offsets.tolist()
        if split_set not in self._file.splits:
            valid = ", ".join(sorted(self._file.splits))
            raise DataError(f"source.split: {split_set!r} is not a split set of {path}; it has {valid}")
        chosen = self._file.splits[split_set]
        self._classes = {split: np.array(sorted(chosen[split])) for split in get_args(Split) if split in chosen}
        self._fitting: set[tuple[Split, TaskShape, Rotations]] = set()
        self.splits: tuple[Split, ...] = tuple(self._classes)
        self.fingerprint = f"{self._file.content}/{split_set}"
        height, width, *colours = self._file.images.shape[1:]
        self.input_shape: tuple[int, ...] = (*(colours or [1]), height, width)

    def count(self, split: Split, rotations: Rotations) -> int:
        """The number of classes; four times as many where quarter turns are classes."""
        return len(self._classes[split]) * (QUARTERS if rotations == "classes" else 1)

    def contents(self, split: Split) -> frozenset[str]:
        """The checksum and the number of the images of each class."""
        counts = np.diff(self._file.offsets)
        return frozenset(f"{self._file.checksums[one]:08x}/{counts[one]}" for one in self._classes.get(split, []))

    def names(self, split: Split, rotations: Rotations) -> list[str]:
        """The names of the classes by the numbers that ``draw`` gives; a quarter turn that is a class has its own."""
        names = [self._file.names[index] for index in self._classes.get(split, [])]
        if rotations != "classes":
            return names
        return [f"{name}, turned by {turn * 90}°" if turn else name for name in names for turn in range(QUARTERS)]

    def draw(
        self, rng: np.random.Generator, split: Split, shape: TaskShape, rotations: Rotations
    ) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """Images [W, N, height, width], or [W, N, height, width, 3], and the classes' numbers [W] in the split.

        Raises ``DataError`` as ``require`` does.
        """
        self.require(split, shape, rotations)
        classes, offsets = self._classes[split], self._offsets
        turned = QUARTERS if rotations == "classes" else 1
        drawn = rng.choice(self.count(split, rotations), shape.ways, replace=False)
        self._watched.require_whole(classes[drawn // turned].tolist(), shape.shots + shape.queries)
        rows_WN = np.array(
            [
                offsets[index] + rng.permutation(offsets[index + 1] - offsets[index])[: shape.shots + shape.queries]
                for index in classes[drawn // turned]
            ]
        )
        # Drawn last, so that a ticket has the same images with and without random rotations.
        turns = rng.integers(QUARTERS, size=shape.ways) if rotations == "random" else drawn % turned
        pixels_WN = self._file.images[rows_WN]
        for pixels_N, turn in zip(pixels_WN, turns, strict=True):
            if turn:
                pixels_N[:] = np.rot90(pixels_N, turn, axes=(1, 2))
        return pixels_WN, drawn

    def require(self, split: Split, shape: TaskShape, rotations: Rotations) -> None:
        """Raise ``DataError`` where ``split`` cannot fill ``shape``; looks once."""
        if (split, shape, rotations) in self._fitting:
            return
        place = f"{self._path}, split {split!r} of {self._split_set!r}"
        if split not in self._classes:
            raise DataError(f"{place}: there is none; the set has {', '.join(self.splits)}")
        classes, file = self._classes[split], self._file
        height, width = file.images.shape[1:3]
        if rotations != "none" and height != width:
            raise DataError(
                f"{place}: quarter turns need square images, these are {height}×{width}; "
                "use source.train_rotations=none source.eval_rotations=none"
            )
        available = self.count(split, rotations)
        if shape.ways > available:
            raise DataError(f"{place}: has {available} classes, tasks have {shape.ways} ways; use ways <= {available}")
        counts, each = np.diff(file.offsets)[classes], shape.shots + shape.queries
        few = [f"{file.names[index]!r} ({count})" for index, count in zip(classes, counts, strict=True) if count < each]
        if few:
            raise DataError(
                f"{place}: {shape.shots} shots + {shape.queries} queries need {each} images per class, and"
                f" {len(few)} classes have fewer: {', '.join(few[:3])}; ask for at most {counts.min()}, or"
                f" leave them out with `python -m jobs.ingest folder --min-images {each}`"
            )
        self._fitting.add((split, shape, rotations))


def channels_first(pixels: Pixels, colours: int) -> Pixels:
    """Images [..., H, W] or [..., H, W, 3] as [..., C, H, W]."""
    return np.expand_dims(pixels, -3) if colours == 1 else np.moveaxis(pixels, -1, -3)
