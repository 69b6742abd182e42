"""Draws the rows of a task from the classes of one split set of a class-indexed file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape
from pipeline.tasks.class_index import ClassIndexed
from pipeline.tasks.watched import WatchedFile

F = TypeVar("F", bound=ClassIndexed)
Numbers = npt.NDArray[np.int64]


class Examples(NamedTuple):
    """What errors say of a file's rows: what they are, how the file is made, and what leaves small classes out."""

    rows: str
    made_by: str
    fewest: str


class ClassRows(Generic[F]):
    """Draws ``ways`` classes of a split without replacement, then ``shots + queries`` rows of each likewise.

    Classes are drawn from their sorted indices and rows from those of their class, so the generator alone decides.
    W ways, N rows of each.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
    """

    def __init__(self, path: Path, split_set: str, read: Callable[[Path], F], examples: Examples) -> None:
        if not path.is_file():
            made_by = examples.made_by.format(path=path)
            raise DataError(f"source.path: {path} does not exist; make it with {made_by}")
        self.path, self._split_set, self._examples = path, split_set, examples
        self._watched = WatchedFile(path, read)
        self.file = self._watched.file
        self._offsets: list[int] = self.file.offsets.tolist()
        if split_set not in self.file.splits:
            valid = ", ".join(sorted(self.file.splits))
            raise DataError(f"source.split: {split_set!r} is not a split set of {path}; it has {valid}")
        chosen = self.file.splits[split_set]
        self._classes = {split: np.array(sorted(chosen[split])) for split in get_args(Split) if split in chosen}
        self._fitting: set[tuple[Split, TaskShape, int]] = set()
        self.splits: tuple[Split, ...] = tuple(self._classes)
        self.fingerprint = f"{self.file.content}/{split_set}"

    def sizes(self, split: Split, copies: int = 1) -> list[tuple[str, int]]:
        """The name and the number of rows of each class of a split; each class stands for ``copies`` classes.

        Raises:
            DataError: the split set has no such split.
        """
        if split not in self._classes:
            raise DataError(f"{self.place(split)}: there is none; the set has {', '.join(self.splits)}")
        counts, indices = np.diff(self.file.offsets), self._classes[split].repeat(copies)
        return [(self.file.names[index], int(counts[index])) for index in indices]

    def counts(self) -> dict[str, dict[str, int]]:
        """The classes and the rows of each split."""
        rows = np.diff(self.file.offsets)
        return {
            split: {"classes": len(classes), self._examples.rows: int(rows[classes].sum())}
            for split, classes in self._classes.items()
        }

    def class_names(self, split: Split) -> list[str]:
        """The name of each class of a split, by the numbers that ``draw_rows`` gives."""
        return [self.file.names[index] for index in self._classes.get(split, [])]

    def place(self, split: Split) -> str:
        """A split as errors name it."""
        return f"{self.path}, split {split!r} of {self._split_set!r}"

    def contents(self, split: Split) -> frozenset[str]:
        """The checksum and the number of the rows of each class."""
        counts = np.diff(self.file.offsets)
        return frozenset(f"{self.file.checksums[one]:08x}/{counts[one]}" for one in self._classes.get(split, []))

    def draw_rows(
        self, rng: np.random.Generator, split: Split, shape: TaskShape, copies: int = 1
    ) -> tuple[Numbers, Numbers]:
        """Rows of the file [W, N], and the classes' numbers [W] in the split.

        Raises ``DataError`` as ``require`` does.
        """
        self.require(split, shape, copies)
        classes, offsets, each = self._classes[split], self._offsets, shape.shots + shape.queries
        drawn = rng.choice(len(classes) * copies, shape.ways, replace=False)
        chosen = classes[drawn // copies]
        self._watched.require_whole(chosen.tolist(), each)
        rows = [offsets[one] + rng.permutation(offsets[one + 1] - offsets[one])[:each] for one in chosen]
        return np.array(rows), drawn

    def require(self, split: Split, shape: TaskShape, copies: int = 1) -> None:
        """Raise ``DataError`` where ``split`` cannot fill ``shape``; looks once."""
        if (split, shape, copies) in self._fitting:
            return
        available, place = len(self.sizes(split, copies)), self.place(split)
        if shape.ways > available:
            raise DataError(f"{place}: has {available} classes, tasks have {shape.ways} ways; use ways <= {available}")
        classes, file = self._classes[split], self.file
        counts, each = np.diff(file.offsets)[classes], shape.shots + shape.queries
        few = [f"{file.names[index]!r} ({count})" for index, count in zip(classes, counts, strict=True) if count < each]
        if few:
            raise DataError(
                f"{place}: {shape.shots} shots + {shape.queries} queries need {each} {self._examples.rows} per class,"
                f" and {len(few)} classes have fewer: {', '.join(few[:3])}; ask for at most {counts.min()}, or leave"
                f" them out with `{self._examples.fewest} {each}`"
            )
        self._fitting.add((split, shape, copies))
