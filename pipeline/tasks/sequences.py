"""Sequences of images, each label shown after its answer: the protocol of MANN.

Santoro, Bartunov, Botvinick, Wierstra, Lillicrap: One-shot Learning with Memory-Augmented Neural Networks,
arXiv 1605.06065.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes
from pipeline.core.types import FilePath, MayChange, Stream, Task
from pipeline.tasks.area import average, shares
from pipeline.tasks.classes import Classes, Rotations, channels_first
from pipeline.tasks.classfile import Pixels


@dataclass(frozen=True)
class SequencesConfig:
    """Images one after the other, each label one step late.

    In a ``balanced`` sequence, as published, all classes occur equally often. A method can then count which labels
    remain, and one that learns to count learns nothing else for long. ``independent`` draws the class of each training
    example independently, so that labels say nothing about later ones. Evaluation stays balanced.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets.
        side: Images are made so many pixels square; published is 20, and null keeps their size.
        training_order: How often the classes of a training sequence come.
        train_rotations: What quarter turns of training tasks are: nothing, classes of their own, or one drawn at random
            for each class and task.
        eval_rotations: The same for evaluation tasks.
    """

    path: Annotated[str, FilePath()]
    split: str = "random"
    train_rotations: Rotations = "none"
    eval_rotations: Annotated[Rotations, MayChange()] = "none"
    side: Annotated[int, Ge(1), Le(1024)] | None = None
    training_order: Literal["balanced", "independent"] = "balanced"


class Sequences:
    """``ways`` classes with ``queries`` images each, in random order; a class's slot is drawn anew for each task.

    ``shots`` images of each class come first and are not scored; with 0, as published, a task begins empty.
    In an independent order an image is repeated after all ``queries`` images of its class.
    ``x`` is float32 [T, C, H, W] in [0, 1]; ``y`` int64 [T], the slot. Images are resized by area averaging when a task
    is sampled, so that one ingested file serves every size.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
        ConfigError: ``side`` is more than the images have.
    """

    Config: ClassVar[type[SequencesConfig]] = SequencesConfig

    def __init__(self, config: SequencesConfig, shapes: TaskShapes) -> None:
        self._classes, self._shapes = Classes(Path(config.path), config.split), shapes
        self._training_order = config.training_order
        self._rotations: dict[bool, Rotations] = {True: config.train_rotations, False: config.eval_rotations}
        self.evaluation = {"rotations": config.eval_rotations}
        self.splits: tuple[Split, ...] = self._classes.splits
        colours, *sides = self._classes.input_shape
        if config.side is not None and config.side > min(sides):
            raise ConfigError(
                f"source.side: {config.side}, but the images of {config.path} are {sides[0]}×{sides[1]}; use at most"
                f" {min(sides)}"
            )
        to = sides if config.side is None else [config.side, config.side]
        self._shares = [shares(side, new) for side, new in zip(sides, to, strict=True)]
        self._input_shape = (colours, *to)
        resized = hashlib.sha256(b"".join(share.tobytes() for share in self._shares)).hexdigest()[:16]
        self.fingerprint = f"{self._classes.fingerprint}/{to[0]}×{to[1]}/{resized}"
        known = self._classes.preparation
        self.preparation = None if known is None else dict(known) | {"side": to[0]}

    def spec(self) -> Spec:
        return Spec(Stream, self._input_shape, self._shapes.train.ways, "slots", "cross_entropy", bounds=(0.0, 1.0))

    def contents(self, split: Split) -> frozenset[str]:
        return self._classes.contents(split)

    def sample(self, ticket: Ticket) -> Task[Stream]:
        shape, rng = self._shapes.of(ticket), ticket.rng("task")
        rotations = self._rotations[ticket.purpose == "train"]
        pixels_WN, _ = self._classes.draw(rng, ticket.split, shape, rotations)
        independent = ticket.purpose == "train" and self._training_order == "independent"
        order = _independent if independent else _balanced
        parts = np.split(pixels_WN, [shape.shots], axis=1)
        support, query = (self._sequence(part, order(rng, *part.shape[:2])) for part in parts)
        return Task(ticket.id, support, query, shape.ways)

    def _sequence(self, pixels_WN: Pixels, order: npt.NDArray[np.int64]) -> Stream:
        ways, each, *_ = pixels_WN.shape
        pixels = channels_first(pixels_WN.reshape(ways * each, *pixels_WN.shape[2:]), self._input_shape[0])[order]
        return Stream(torch.from_numpy(average(pixels, *self._shares)), torch.from_numpy(order // each))


def _balanced(rng: np.random.Generator, ways: int, each: int) -> npt.NDArray[np.int64]:
    """The order of ``ways`` × ``each`` images."""
    return rng.permutation(ways * each)


def _independent(rng: np.random.Generator, ways: int, each: int) -> npt.NDArray[np.int64]:
    slots = rng.integers(ways, size=ways * each)
    earlier = np.tril(slots[:, None] == slots[None, :], -1).sum(1)
    return slots * each + earlier % max(each, 1)
