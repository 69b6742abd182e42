"""Support sets of images that come one after the other, and queries of all their classes at the end.

Antoniou, Patacchiola, Ochal, Storkey: Defining Benchmarks for Continual Few-Shot Learning, arXiv 2004.11967.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.bounds import Count
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes, require_support
from pipeline.core.types import Batch, FilePath, MayChange, Params, Sets, Task
from pipeline.tasks.classes import Classes, Rotations, channels_first
from pipeline.tasks.classfile import Pixels
from pipeline.tasks.parts import by_part, kept_of_parts


@dataclass(frozen=True)
class ImageSetsConfig:
    """Support sets from an ingested file of images.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets.
        sets: Support sets of a task, the article's NSS.
        change_every: Support sets after which other classes come, the article's class-change interval. Sets of the same
            classes have other images of them.
        train_rotations: What quarter turns of training tasks are: nothing, classes of their own, or one drawn at random
            for each class and task.
        eval_rotations: The same for evaluation tasks.
    """

    path: Annotated[str, FilePath()]
    split: str = "random"
    sets: Count = 2
    change_every: Count = 1
    train_rotations: Rotations = "none"
    eval_rotations: Annotated[Rotations, MayChange()] = "none"


class ImageSets:
    """``ways`` classes in all; each support set has ``shots`` images of each of its own, and each class ``queries``.

    ``x`` is float32 [N, C, H, W] in [0, 1]; ``y`` is int64 [N], the slot, which counts the classes as they come. A
    support set is ordered by slot. Queries are of all classes, in random order.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
        ConfigError: tasks have no shots; the sets or the classes cannot be shared out equally.
    """

    Config: ClassVar[type[ImageSetsConfig]] = ImageSetsConfig

    def __init__(self, config: ImageSetsConfig, shapes: TaskShapes) -> None:
        require_support(shapes)
        _require_shares(config, shapes)
        self._classes, self._shapes = Classes(Path(config.path), config.split), shapes
        self._sets, self._repeats = config.sets, config.change_every
        self._rotations: dict[bool, Rotations] = {True: config.train_rotations, False: config.eval_rotations}
        self.evaluation = {
            "rotations": config.eval_rotations,
            "support sets": config.sets,
            "classes change every": config.change_every,
        }
        self.splits: tuple[Split, ...] = self._classes.splits
        self.fingerprint = self._classes.fingerprint
        self.preparation = self._classes.preparation

    def spec(self) -> Spec:
        return Spec(
            Sets,
            self._classes.input_shape,
            self._shapes.train.ways,
            "slots",
            "cross_entropy_by_part",
            bounds=(0.0, 1.0),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        return self._classes.counts()

    def contents(self, split: Split) -> frozenset[str]:
        return self._classes.contents(split)

    def class_names(self, split: Split) -> Sequence[str]:
        return self._classes.names(split, self._rotations[False])

    def judge(self, answers: Params, query: Batch) -> dict[str, float]:
        """``accuracy_1``, ``accuracy_2`` …: those on the classes of the first, the second … support set."""
        order = query.y.argsort(stable=True)
        by_classes = {name: each[order].reshape(self._sets // self._repeats, -1) for name, each in answers.items()}
        by_set = {name: each.repeat_interleave(self._repeats, 0).flatten() for name, each in by_classes.items()}
        return by_part(by_set, self._sets)

    def judge_stream(self, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return kept_of_parts(metrics, "accuracy")

    def sample(self, ticket: Ticket) -> Task[Batch | Sets]:
        """Draws the classes and their images, then the order of the queries."""
        shape, rng, training = self._shapes.of(ticket), ticket.rng("task"), ticket.purpose == "train"
        drawn = self._drawn(shape)
        pixels_WN, numbers = self._classes.draw(rng, ticket.split, drawn, self._rotations[training])
        first_W = np.arange(shape.ways) // (shape.ways * self._repeats // self._sets) * self._repeats
        number = (first_W[:, None] + np.arange(drawn.shots) // shape.shots).flatten()
        order = np.argsort(number, kind="stable")
        support = Sets(*self._batch(pixels_WN[:, : drawn.shots], order), torch.from_numpy(number[order]))
        query = self._batch(pixels_WN[:, drawn.shots :], rng.permutation(shape.ways * shape.queries))
        return Task(ticket.id, support, query, shape.ways, classes=tuple(numbers.tolist()))

    def _drawn(self, shape: TaskShape) -> TaskShape:
        """The shape with the support images that each class has in all of its sets."""
        return replace(shape, shots=shape.shots * self._repeats)

    def _batch(self, pixels_WN: Pixels, order: npt.NDArray[np.int64]) -> Batch:
        ways, each, *size = pixels_WN.shape
        pixels = channels_first(pixels_WN.reshape(ways * each, *size)[order], self._classes.input_shape[0])
        x = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255)
        return Batch(x, torch.from_numpy(order // each))


def _require_shares(config: ImageSetsConfig, shapes: TaskShapes) -> None:
    """Raise ``ConfigError`` where classes change within a number of sets, or sets have unequal numbers of classes."""
    if config.sets % config.change_every:
        raise ConfigError(
            f"source.change_every: {config.change_every}, but there are source.sets = {config.sets} support sets; use "
            "a divisor of that"
        )
    groups = config.sets // config.change_every
    for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
        if shape.ways % groups:
            raise ConfigError(
                f"task.{phase}.ways: {shape.ways} classes in all, but source.sets = {config.sets} and "
                f"source.change_every = {config.change_every} share them out among {groups}; use a multiple of {groups}"
            )
