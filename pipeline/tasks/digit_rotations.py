"""Streams of rotated digits: one rotation after the other, with the same ten classes in each.

The protocol is MER's (Riemer et al., arXiv 1810.11910, §5, "MNIST Rotations") on the 1,797 digits of 8×8 pixels that
come with scikit-learn, which MLflow installs. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Gt, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes, require_support
from pipeline.core.types import Batch, Params, Task
from pipeline.tasks.parts import by_part, kept_of_parts

DIGITS = 10
ROWS = {"train": (0, 1200), "val": (1200, 1500), "test": (1500, 1797)}
"""The digits that queries of a split are of, in the order of the data set, which is that of their writers."""


@dataclass(frozen=True)
class DigitRotationsConfig:
    """The rotations of a stream.

    Attributes:
        degrees: The angle of each part of a stream is drawn from 0 to this.
    """

    degrees: Annotated[float, Gt(0), Le(360)] = 180.0


class DigitRotations:
    """``ways`` rotations, one after the other, each with ``shots`` digits to learn and ``queries`` others.

    ``x`` is float32 [N, 1, 8, 8] in [0, 1]; ``y`` is int64 [N], the digit. Digits to learn are of the first 1,200 in
    all splits. Queries come rotation by rotation.

    Raises:
        ConfigError: tasks have no shots, or more digits than there are.
    """

    Config: ClassVar[type[DigitRotationsConfig]] = DigitRotationsConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: DigitRotationsConfig, shapes: TaskShapes) -> None:
        import scipy
        from sklearn.datasets import load_digits

        require_support(shapes)
        self._config, self._shapes = config, shapes
        self._require_digits()
        data = load_digits()
        self._images, self._labels = (data.images / 16).astype(np.float32), data.target.astype(np.int64)
        content = self._images.tobytes() + self._labels.tobytes() + repr(config).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self.versions = {"scipy": scipy.__version__}

    def spec(self) -> Spec:
        return Spec(Batch, (1, 8, 8), DIGITS, "labels", "cross_entropy_by_part", bounds=(0.0, 1.0))

    def class_names(self, split: Split) -> Sequence[str]:
        return [str(digit) for digit in range(DIGITS)]

    def judge(self, answers: Params, query: Batch) -> dict[str, float]:
        return by_part(answers, self._shapes.eval.ways)

    def judge_stream(self, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return kept_of_parts(metrics, "accuracy")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        """Draws the angles, then each part's digits."""
        rng, shape = ticket.rng("task"), self._shapes.of(ticket)
        parts = [
            self._part(rng, shape, ticket.split, angle) for angle in rng.uniform(0, self._config.degrees, shape.ways)
        ]
        x_WN, y_WN = (np.stack(column) for column in zip(*parts, strict=True))
        support, query = (
            Batch(torch.from_numpy(x.reshape(-1, 1, 8, 8)), torch.from_numpy(y.reshape(-1)))
            for x, y in zip(np.split(x_WN, [shape.shots], 1), np.split(y_WN, [shape.shots], 1), strict=True)
        )
        return Task(ticket.id, support, query, shape.ways, classes=tuple(range(DIGITS)))

    def _part(
        self, rng: np.random.Generator, shape: TaskShape, split: Split, angle: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The digits to learn and the queries of one rotation, which are others."""
        from scipy import ndimage

        learned = rng.permutation(ROWS["train"][1])
        others = learned[shape.shots :] if split == "train" else rng.permutation(np.arange(*ROWS[split]))
        rows = np.concatenate([learned[: shape.shots], others[: shape.queries]])
        turned = ndimage.rotate(self._images[rows], angle, axes=(1, 2), reshape=False, order=1)
        return turned, self._labels[rows]

    def _require_digits(self) -> None:
        """Raise ``ConfigError`` where a rotation asks for more digits than there are."""
        train, judged = self._shapes.train, self._shapes.eval
        for key, asked, split in (
            ("train.shots", train.shots + train.queries, "train"),
            ("eval.shots", judged.shots, "train"),
            ("eval.queries", judged.queries, "test"),
        ):
            first, last = ROWS[split]
            if asked > last - first:
                both = " and train.queries" if key == "train.shots" else ""
                raise ConfigError(f"task.{key}{both}: {asked} digits of a rotation, and there are {last - first}")
