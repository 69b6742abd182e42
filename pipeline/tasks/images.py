"""Few-shot image classification from a class-indexed Arrow file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le

from pipeline.core.bounds import MAX_COUNT
from pipeline.core.effects import OnlyWith
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket, rngs
from pipeline.core.source import Spec, TaskShape, TaskShapes, one_of, require_support
from pipeline.core.types import Batch, FilePath, MayChange, Task
from pipeline.tasks.augment import Augmentation, Changes, together
from pipeline.tasks.class_rows import Numbers
from pipeline.tasks.classes import Chosen, Classes, Rotations, channels_first


@dataclass(frozen=True)
class ImagesConfig:
    """An ingested file of images.

    With ``labels: classes`` an example of a training task is labelled with its class's number in the split ``train``
    (where quarter turns are classes, with that of class and turn): for methods that train one classifier for them all.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets, such as ``random`` or ``background``.
        labels: What labels of training tasks count: a class's slot in its task, or its number among all of the split's.
        train_rotations: What quarter turns of training tasks are: nothing, classes of their own, or one drawn at random
            for each class and task.
        eval_rotations: The same for evaluation tasks.
        query_order: ``sorted`` gives queries by class, in the order of the support set. A method that sees them
            together could learn their labels from their places. It repeats the bits of runs from before queries were
            shuffled.
        remember: Other classes, of each of which a training task's query set has one image. A method that learns the
            support set as a stream must not forget them. They need ``labels: classes``.
        eval_queries: What evaluation tasks ask for: ``others`` of their classes' images, or the images of the support
            set itself.
        train_flip: Whether left and right of an image of a training task are exchanged with a probability of one half.
        train_crop: Pixels of black padding on each side of an image of a training task, of which a crop of the image's
            size is taken at random.
        train_jitter: The brightness, the contrast and, of colours, the saturation of each image of a training task are
            multiplied by factors drawn between 1 - jitter and 1 + jitter.
    """

    path: Annotated[str, FilePath()]
    split: str = "random"
    labels: Literal["slots", "classes"] = "slots"
    train_rotations: Rotations = "none"
    eval_rotations: Annotated[Rotations, MayChange()] = "none"
    query_order: Literal["shuffled", "sorted"] = "shuffled"
    remember: Annotated[int, Ge(0), Le(MAX_COUNT), OnlyWith("labels", "classes")] = 0
    eval_queries: Annotated[Literal["others", "support"], MayChange()] = "others"
    train_flip: bool = False
    train_crop: Annotated[int, Ge(0), Le(512)] = 0
    train_jitter: Annotated[float, Ge(0), Le(1)] = 0.0


class Images:
    """Classes and images as ``Classes`` draws them; each class's first ``shots`` images are its support set.

    ``x`` is float32 [N, C, H, W] in [0, 1]; ``y`` is int64 [N], the slot (of training tasks, the class's number if
    ``labels`` says so). A support set is ordered by slot and then by draw, queries as ``query_order`` says.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
        ConfigError: tasks have no shots, there are too few classes to remember, or images are smaller than a crop's
            padding.
    """

    Config: ClassVar[type[ImagesConfig]] = ImagesConfig

    def __init__(self, config: ImagesConfig, shapes: TaskShapes) -> None:
        require_support(shapes)
        self._classes, self._shapes, self._labels = Classes(Path(config.path), config.split), shapes, config.labels
        self._rotations: dict[bool, Rotations] = {True: config.train_rotations, False: config.eval_rotations}
        self._asks_support = config.eval_queries == "support"
        self.evaluation: dict[str, str] = {"rotations": config.eval_rotations}
        if self._asks_support:
            self.evaluation["queries"] = "the support set"
        self._shuffled = config.query_order == "shuffled"
        self.splits: tuple[Split, ...] = self._classes.splits
        self.fingerprint = self._classes.fingerprint
        self.preparation = self._classes.preparation
        self._augmentation = Augmentation(config.train_flip, config.train_crop, config.train_jitter)
        self._require_larger_images(config)
        self._training = replace(shapes.train, ways=shapes.train.ways + config.remember)
        if config.remember and "train" in self.splits:
            self._require_remembered(config)

    def _require_remembered(self, config: ImagesConfig) -> None:
        ways, available = self._shapes.train.ways, len(self.class_sizes("train", training=True))
        if ways + config.remember > available:
            raise ConfigError(
                f"source.remember: {config.remember} classes beside task.train.ways = {ways}, and the split 'train' of "
                f"{config.split!r} in {config.path} has {available}; use at most {max(available - ways, 0)}"
            )

    def _require_larger_images(self, config: ImagesConfig) -> None:
        _, *sides = self._classes.input_shape
        if config.train_crop >= min(sides):
            raise ConfigError(
                f"source.train_crop: {config.train_crop} pixels of padding, but the images of {config.path} are "
                f"{sides[0]}×{sides[1]}, so that a crop could miss all of an image; use at most {min(sides) - 1}"
            )

    def spec(self) -> Spec:
        outputs = self._shapes.train.ways if self._labels == "slots" else self._training_classes()
        return Spec(Batch, self._classes.input_shape, outputs, self._labels, "cross_entropy", bounds=(0.0, 1.0))

    def _training_classes(self) -> int:
        """How many; a file of new classes alone, to evaluate a trained run on, has none."""
        return len(self.class_sizes("train", training=True)) if "train" in self.splits else 0

    def class_sizes(self, split: Split, *, training: bool) -> list[tuple[str, int]]:
        return self._classes.class_sizes(split, self._rotations[training])

    def counts(self) -> dict[str, dict[str, int]]:
        return self._classes.counts()

    def contents(self, split: Split) -> frozenset[str]:
        return self._classes.contents(split)

    def class_names(self, split: Split) -> Sequence[str]:
        return self._classes.names(split, self._rotations[False])

    def sample(self, ticket: Ticket) -> Task[Batch]:
        task, numbers_TW = self._sampled([ticket])
        classes = tuple(numbers_TW[0, : task.ways].tolist())
        return task._replace(support=one_of(task.support, 0), query=one_of(task.query, 0), classes=classes)

    def sample_chunk(self, tickets: Sequence[Ticket]) -> Task[Batch]:
        """See ``DrawsChunks``."""
        return self._sampled(tickets)[0]

    def _sampled(self, tickets: Sequence[Ticket]) -> tuple[Task[Batch], Numbers]:
        """The tasks as one, with tensors [T, …], and the numbers [T, W] of their classes."""
        shape, training = self._shapes.of(tickets[0]), tickets[0].purpose == "train"
        drawn, rotations = self._training if training else shape, self._rotations[training]
        augmentation = self._augmentation if training else Augmentation()
        support, query = self._places(drawn, shape.ways, asks_support=self._asks_support and not training)
        chosen, places, changes = [], [], []
        for rng in rngs(tickets, "task"):
            chosen.append(self._classes.choose(rng, tickets[0].split, drawn, rotations))
            # Drawn last: in either order, and with or without changes, a ticket has the same images.
            places.append(query[rng.permutation(len(query))] if self._shuffled else query)
            changes.append([augmentation.draw(rng, len(part)) for part in (support, query)])
        every = Chosen(*map(np.stack, zip(*chosen, strict=True)))
        labels = np.broadcast_to(np.arange(drawn.ways), every.numbers.shape)
        if training and self._labels == "classes":
            labels = every.numbers
        parts = zip((np.tile(support, (len(tickets), 1)), np.stack(places)), zip(*changes, strict=True), strict=True)
        batches = [self._batch(every, labels, at, changed) for at, changed in parts]
        return Task(tickets[0].id, batches[0], batches[1], shape.ways), every.numbers

    def _places(self, drawn: TaskShape, ways: int, *, asks_support: bool) -> tuple[Numbers, Numbers]:
        """The places in [W · N] of the images of the support set, and of those of the query set in their order."""
        at = np.arange(drawn.ways * (drawn.shots + drawn.queries)).reshape(drawn.ways, -1)
        support, asked = at[:ways, : drawn.shots].ravel(), at[:ways, drawn.shots :].ravel()
        return support, support if asks_support else np.concatenate([asked, at[ways:, 0]])

    def _batch(self, chosen: Chosen, labels_TW: Numbers, places_TN: Numbers, changes: Sequence[Changes]) -> Batch:
        """The chosen images at these places in each task's [W · N], after each task's changes."""
        each = chosen.rows.shape[2]
        rows = np.take_along_axis(chosen.rows.reshape(len(places_TN), -1), places_TN, 1)
        turns, labels = (np.take_along_axis(of, places_TN // each, 1) for of in (chosen.turns, labels_TW))
        pixels = channels_first(self._classes.pixels(rows, turns), self._classes.input_shape[0])
        all_pixels = torch.from_numpy(np.ascontiguousarray(pixels))
        x = self._augmentation.apply(all_pixels.flatten(0, 1), together(changes)).view_as(all_pixels)
        return Batch(x, torch.from_numpy(labels))
