"""Few-shot image classification from a class-indexed Arrow file, whatever it was ingested from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch

from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_support
from pipeline.core.types import Batch, MayChange, Task
from pipeline.tasks.classes import Classes, channels_first
from pipeline.tasks.classfile import Pixels


@dataclass(frozen=True)
class ImagesConfig:
    """``path`` of an ingested file and the name of one of its split sets, such as ``random`` or ``background``."""

    path: Annotated[str, MayChange()]
    split: str = "random"


class Images:
    """Classes and images as ``Classes`` draws them; each class's first ``shots`` images are its support set.

    ``x`` is float32 [N, C, H, W] in [0, 1], ordered by slot and then by draw; ``y`` is int64 [N], the slot.

    Raises:
        DataError: the file is missing, damaged or has no such split set; or the split ``train`` cannot fill its shape.
        ConfigError: tasks have no shots.
    """

    Config: ClassVar[type[ImagesConfig]] = ImagesConfig

    def __init__(self, config: ImagesConfig, shapes: TaskShapes) -> None:
        require_support(shapes)
        self._classes, self._shapes = Classes(Path(config.path), config.split), shapes
        self.splits: tuple[Split, ...] = self._classes.splits
        self.fingerprint = self._classes.fingerprint
        self._classes.require("train", shapes.train)

    def spec(self) -> Spec:
        return Spec("classification", self._classes.input_shape, self._shapes.train.ways)

    def sample(self, ticket: Ticket) -> Task[Batch]:
        shape = self._shapes.of(ticket)
        pixels_WN = self._classes.draw(ticket.rng("task"), ticket.split, shape)
        support, query = (self._batch(part) for part in np.split(pixels_WN, [shape.shots], axis=1))
        return Task(ticket.id, support, query, shape.ways)

    def _batch(self, pixels_WN: Pixels) -> Batch:
        ways, each, *_ = pixels_WN.shape
        pixels = channels_first(pixels_WN.reshape(ways * each, *pixels_WN.shape[2:]), self._classes.input_shape[0])
        x = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255)
        return Batch(x, torch.from_numpy(np.arange(ways).repeat(each)))
