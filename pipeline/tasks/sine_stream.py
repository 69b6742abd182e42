"""Streams of sine waves, one after the other: OML's regression (Javed & White, arXiv 1905.12588, §4.1).

An input is a point and the number of its wave, one-hot. A learner that forgets is good at the last wave alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, require_support
from pipeline.core.types import Batch, Params, Task
from pipeline.tasks.parts import by_part, kept_of_parts
from pipeline.tasks.sinusoid import WaveConfig, ranges_of


@dataclass(frozen=True)
class SineStreamConfig(WaveConfig):
    """Bounds of uniform draws."""


class SineStream:
    """``ways`` waves: all ``shots`` points of the first, then those of the second, and so on; queries are of all waves.

    ``x`` is float64 [N, 1 + ways], a point and its wave's number one-hot; ``y`` is float64 [N, 1]. Every split has the
    same distribution.

    Raises:
        ConfigError: a range is empty; training and evaluation tasks have other numbers of waves; tasks have no shots.
    """

    Config: ClassVar[type[SineStreamConfig]] = SineStreamConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: SineStreamConfig, shapes: TaskShapes) -> None:
        ranges_of(config)
        require_support(shapes)
        if shapes.eval.ways != shapes.train.ways:
            raise ConfigError(
                f"task.eval.ways: {shapes.eval.ways}, but an input says which of task.train.ways = {shapes.train.ways} "
                "waves it is of; make them equal"
            )
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        return Spec(Batch, (1 + self._shapes.train.ways,), 1, "values", "squared_error_by_part")

    def judge(self, answers: Params, query: Batch) -> dict[str, float]:
        return by_part(answers, self._shapes.eval.ways)

    def judge_stream(self, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return kept_of_parts(metrics, "mse")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        """Draws the waves, then the support set, then the query set."""
        rng, shape, config = ticket.rng("task"), self._shapes.of(ticket), self._config
        amplitude = rng.uniform(*config.amplitude, size=(shape.ways, 1))
        phase = rng.uniform(*config.phase, size=(shape.ways, 1))
        numbers = np.eye(shape.ways)

        def points(each: int) -> Batch:
            x = rng.uniform(*config.x, size=(shape.ways, each))
            y = amplitude * np.sin(x - phase)
            inputs = np.concatenate([x.reshape(-1, 1), numbers.repeat(each, 0)], 1)
            return Batch(torch.from_numpy(inputs), torch.from_numpy(y.reshape(-1, 1)))

        return Task(ticket.id, points(shape.shots), points(shape.queries), shape.ways)
