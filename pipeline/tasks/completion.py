"""Images to be completed from some of their pixels: a regression from a pixel's place to its value.

Garnelo et al., arXiv 1807.01613, §4.2. Each task is one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import FilePath, Points, Task
from pipeline.tasks.classes import Classes, channels_first
from pipeline.tasks.points import draw_sizes, padded, require_sizes

ONE_IMAGE = TaskShape(1, 0, 1)


@dataclass(frozen=True)
class CompletionConfig:
    """An ingested file of images. ``shots`` are the most pixels that a training task shows.

    All training tasks of a step show as many pixels. An evaluation task shows exactly ``shots``.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets, such as ``random`` or ``background``.
        fewest_shots: The fewest pixels that a training task shows.
    """

    path: Annotated[str, FilePath()]
    split: str = "random"
    fewest_shots: Annotated[int, Ge(0), Le(1 << 12)] = 3


class Completion:
    """``Points`` with x [N, 2], the row and the column of a pixel in [-1, 1], and y [N, C], its values in [0, 1].

    Support and query pixels of a task differ.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
        ConfigError: images have fewer pixels than a task asks for.
    """

    Config: ClassVar[type[CompletionConfig]] = CompletionConfig

    def __init__(self, config: CompletionConfig, shapes: TaskShapes) -> None:
        self._classes, self._shapes = Classes(Path(config.path), config.split), shapes
        self._channels, *sides = self._classes.input_shape
        self._places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij"), -1)
        self._places = self._places.reshape(-1, 2)
        self._fewest = TaskShape(1, config.fewest_shots, 1)
        for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
            wanted, pixels = shape.shots + shape.queries, len(self._places)
            require_sizes(phase, shape, self._fewest, wanted)
            if wanted > pixels:
                raise ConfigError(
                    f"task.{phase}: {shape.shots} shots and {shape.queries} queries are {wanted} pixels, an image has "
                    f"{pixels}; ask for fewer"
                )
        self.splits: tuple[Split, ...] = self._classes.splits
        self.fingerprint = self._classes.fingerprint

    def spec(self) -> Spec:
        return Spec(Points, (2,), self._channels, "values", "gaussian")

    def contents(self, split: Split) -> frozenset[str]:
        return self._classes.contents(split)

    def sample(self, ticket: Ticket) -> Task[Points]:
        rng, shape = ticket.rng("task"), self._shapes.of(ticket)
        pixels, _ = self._classes.draw(rng, ticket.split, ONE_IMAGE, "none")
        values = channels_first(pixels[0, 0], self._channels).reshape(self._channels, -1).T / 255
        shots, queries = shape.shots, shape.queries
        if ticket.purpose == "train":
            shots, queries = draw_sizes(ticket.rng("step"), shape, self._fewest, shots + queries)
        shown, asked = np.split(rng.permutation(len(values))[: shots + queries], [shots])
        support, query = (padded(self._places[rows], values[rows], len(rows)) for rows in (shown, asked))
        return Task(ticket.id, support, query)
