"""Few-shot image classification from a class-indexed Arrow file, whatever it was ingested from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, get_args

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch, Labels, MayChange, Task
from pipeline.tasks import classfile
from pipeline.tasks.classfile import Pixels

QUARTERS = 4


@dataclass(frozen=True)
class ImagesConfig:
    """``path`` of an ingested file and the name of one of its split sets, such as ``random`` or ``background``.

    With ``labels: classes`` an example of a training task is labelled with its class's number in the split ``train``
    (where quarter turns are classes, with that of class and turn): for methods that train one classifier for them all.
    """

    path: Annotated[str, MayChange()]
    split: str = "random"
    labels: Labels = "slots"


class Images:
    """``ways`` classes of a split without replacement, then ``shots + queries`` images of each without replacement.

    ``x`` is float32 [N, C, H, W] in [0, 1], ordered by slot and then by draw; ``y`` is int64 [N], the slot (of training
    tasks, the class's number if ``labels`` says so). Classes are
    drawn from their sorted indices and images from the rows of their class, so the ticket alone decides. Quarter turns
    are counter-clockwise. W ways, N images of each.

    Raises:
        DataError: the file is missing, damaged or has no such split set; or the split ``train`` cannot fill its shape.
    """

    Config: ClassVar[type[ImagesConfig]] = ImagesConfig

    def __init__(self, config: ImagesConfig, shapes: TaskShapes) -> None:
        path = Path(config.path)
        if not path.is_file():
            raise DataError(
                f"source.path: {path} does not exist; make it with `python -m jobs.ingest omniglot --from download"
                f" --to {path}`, or with `python -m jobs.ingest folder PATH --to {path}` from images of your own"
            )
        self._path, self._shapes, self._split_set, self._labels = path, shapes, config.split, config.labels
        self._file = classfile.read(path)
        self._offsets: list[int] = self._file.offsets.tolist()
        if config.split not in self._file.splits:
            valid = ", ".join(sorted(self._file.splits))
            raise DataError(f"source.split: {config.split!r} is not a split set of {path}; it has {valid}")
        chosen = self._file.splits[config.split]
        self._classes = {split: np.array(sorted(chosen[split])) for split in get_args(Split) if split in chosen}
        self._fitting: set[tuple[Split, TaskShape]] = set()
        self._whole: set[int] = set()
        self.splits: tuple[Split, ...] = tuple(self._classes)
        self.fingerprint = f"{self._file.content}/{config.split}"
        self._require("train", shapes.train)

    def spec(self) -> Spec:
        height, width, *colours = self._file.images.shape[1:]
        shape = self._shapes.train
        outputs = shape.ways if self._labels == "slots" else len(self._classes["train"]) * _turned(shape)
        return Spec("classification", (*(colours or [1]), height, width), outputs, self._labels)

    def sample(self, ticket: Ticket) -> Task[Batch]:
        shape = self._shapes.of(ticket)
        self._require(ticket.split, shape)
        rng, classes, offsets = ticket.rng("task"), self._classes[ticket.split], self._offsets
        turned = _turned(shape)
        drawn = rng.choice(len(classes) * turned, shape.ways, replace=False)
        self._require_whole(classes[drawn // turned].tolist())
        rows_WN = np.array(
            [
                offsets[index] + rng.permutation(offsets[index + 1] - offsets[index])[: shape.shots + shape.queries]
                for index in classes[drawn // turned]
            ]
        )
        # Drawn last: with and without random turns, a ticket has the same images.
        turns = rng.integers(QUARTERS, size=shape.ways) if shape.rotations == "random" else drawn % turned
        pixels_WN = self._file.images[rows_WN]
        for pixels_N, turn in zip(pixels_WN, turns, strict=True):
            if turn:
                pixels_N[:] = np.rot90(pixels_N, turn, axes=(1, 2))
        by_class = self._labels == "classes" and ticket.purpose == "train"
        labels = drawn if by_class else np.arange(shape.ways)
        support, query = _batch(pixels_WN[:, : shape.shots], labels), _batch(pixels_WN[:, shape.shots :], labels)
        return Task(ticket.id, support, query, shape.ways)

    def _require_whole(self, classes: Iterable[int]) -> None:
        """Raise where the pixels of a class are damaged; looks once, when the class is first used."""
        for index in classes:
            if index not in self._whole and not self._file.is_whole(index):
                rows = f"{self._offsets[index]} to {self._offsets[index + 1] - 1}"
                raise DataError(
                    f"{self._path}: the images of class {self._file.names[index]!r} (rows {rows}) are not what was"
                    " written: the file is damaged; copy it anew, or make it again with `python -m jobs.ingest`"
                )
            self._whole.add(index)

    def _require(self, split: Split, shape: TaskShape) -> None:
        """Raise where ``split`` cannot fill ``shape``; looks once."""
        if (split, shape) in self._fitting:
            return
        place = f"{self._path}, split {split!r} of {self._split_set!r}"
        if split not in self._classes:
            raise DataError(f"{place}: there is none; the set has {', '.join(self.splits)}")
        classes, file = self._classes[split], self._file
        height, width = file.images.shape[1:3]
        if shape.rotations != "none" and height != width:
            raise DataError(
                f"{place}: quarter turns need square images, these are {height}×{width}; use rotations: none"
            )
        available = len(classes) * _turned(shape)
        if shape.ways > available:
            raise DataError(f"{place}: has {available} classes, tasks have {shape.ways} ways; use ways <= {available}")
        counts, each = np.diff(file.offsets)[classes], shape.shots + shape.queries
        few = [f"{file.names[index]!r} ({count})" for index, count in zip(classes, counts, strict=True) if count < each]
        if few:
            raise DataError(
                f"{place}: {shape.shots} shots + {shape.queries} queries need {each} images per class, and"
                f" {len(few)} classes have fewer: {', '.join(few[:3])}; ask for at most {counts.min()}"
            )
        self._fitting.add((split, shape))


def _turned(shape: TaskShape) -> int:
    """How many classes each class of the file counts for."""
    return QUARTERS if shape.rotations == "classes" else 1


def _batch(pixels_WN: Pixels, labels_W: npt.NDArray[np.int64]) -> Batch:
    """Ways × images of uint8 [H, W] or [H, W, 3] as examples."""
    ways, each, *image = pixels_WN.shape
    pixels = pixels_WN.reshape(ways * each, *image)
    channels_first = pixels[:, None] if len(image) == 2 else pixels.transpose(0, 3, 1, 2)
    x = torch.from_numpy(np.ascontiguousarray(channels_first)).to(torch.float32).div_(255)
    return Batch(x, torch.from_numpy(labels_W.repeat(each)))
