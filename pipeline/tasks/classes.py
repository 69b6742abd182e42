"""The classes of one split set of a class-indexed image file, from which image sources draw tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape
from pipeline.tasks import classfile
from pipeline.tasks.class_rows import ClassRows, Examples, Numbers
from pipeline.tasks.classfile import ClassFile, Pixels

QUARTERS = 4

Rotations = Literal["none", "classes", "random"]
"""``classes``: each quarter turn of a class is a class of its own (ProtoNet, Reptile in training). ``random``: one turn
drawn per class and task, so turns of one class never compete (MAML). They give different numbers: say which."""


class Chosen(NamedTuple):
    """A task's rows of the file [W, N], and each class's quarter turns [W] and its number [W] in the split."""

    rows: Numbers
    turns: Numbers
    numbers: Numbers


_PICTURES = Examples(
    "images",
    "`python -m jobs.ingest omniglot --from download --to {path}`, with `python -m jobs.ingest cifar100 --from FOLDER "
    "--to {path}`, or with `python -m jobs.ingest folder PATH --to {path}` from images of your own",
    "python -m jobs.ingest folder --min-images",
)


class Classes(ClassRows[ClassFile]):
    """Images of classes, drawn as ``ClassRows`` draws rows. Quarter turns are counter-clockwise.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
    """

    def __init__(self, path: Path, split_set: str) -> None:
        super().__init__(path, split_set, classfile.read, _PICTURES)
        self.preparation = self.file.preparation
        height, width, *colours = self.file.images.shape[1:]
        self.input_shape: tuple[int, ...] = (*(colours or [1]), height, width)

    def class_sizes(self, split: Split, rotations: Rotations) -> list[tuple[str, int]]:
        """The name and the number of images of each class; four times as many where quarter turns are classes.

        Raises:
            DataError: the split set has no such split.
        """
        return self.sizes(split, _copies(rotations))

    def names(self, split: Split, rotations: Rotations) -> list[str]:
        """The names of the classes by the numbers that ``draw`` gives; a quarter turn that is a class has its own."""
        names = self.class_names(split)
        if rotations != "classes":
            return names
        return [f"{name}, turned by {turn * 90}°" if turn else name for name in names for turn in range(QUARTERS)]

    def draw(
        self, rng: np.random.Generator, split: Split, shape: TaskShape, rotations: Rotations
    ) -> tuple[Pixels, Numbers]:
        """Images [W, N, height, width], or [W, N, height, width, 3], and the classes' numbers [W] in the split.

        Raises ``DataError`` where ``split`` cannot fill ``shape``, or images to be turned are not square.
        """
        chosen = self.choose(rng, split, shape, rotations)
        return self.pixels(chosen.rows, chosen.turns[:, None].repeat(chosen.rows.shape[1], 1)), chosen.numbers

    def choose(self, rng: np.random.Generator, split: Split, shape: TaskShape, rotations: Rotations) -> Chosen:
        """What ``draw`` draws, without the images."""
        self.require_images(split, shape, rotations)
        copies = _copies(rotations)
        rows_WN, numbers = self.draw_rows(rng, split, shape, copies)
        # Drawn last, so that a ticket has the same images with and without random rotations.
        turns = rng.integers(QUARTERS, size=shape.ways) if rotations == "random" else numbers % copies
        return Chosen(rows_WN, turns, numbers)

    def pixels(self, rows: Numbers, turns: Numbers) -> Pixels:
        """Images [..., height, width] or [..., height, width, 3], from rows [...] of the file and their turns [...]."""
        found = self.file.images[rows]
        for turn in range(1, QUARTERS):
            turned = turns == turn
            if turned.any():
                found[turned] = np.rot90(found[turned], turn, axes=(1, 2))
        return found

    def require_images(self, split: Split, shape: TaskShape, rotations: Rotations) -> None:
        """Raise ``DataError`` where ``split`` cannot fill ``shape``, or images to be turned are not square."""
        height, width = self.file.images.shape[1:3]
        if rotations != "none" and height != width:
            raise DataError(
                f"{self.place(split)}: quarter turns need square images, these are {height}×{width}; "
                "use source.train_rotations=none source.eval_rotations=none"
            )
        self.require(split, shape, _copies(rotations))


def _copies(rotations: Rotations) -> int:
    return QUARTERS if rotations == "classes" else 1


def channels_first(pixels: Pixels, colours: int) -> Pixels:
    """Images [..., H, W] or [..., H, W, 3] as [..., C, H, W]."""
    return np.expand_dims(pixels, -3) if colours == 1 else np.moveaxis(pixels, -1, -3)
