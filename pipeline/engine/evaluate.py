"""Evaluation on fixed tasks: the same tasks for every method, a mean and its 95% interval over tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape
from pipeline.engine.answers import Tally
from pipeline.engine.chunks import chunks_of
from pipeline.engine.interfaces import Scorer
from pipeline.engine.statistics import interval

WAVE = 512
"""Chunks that a scheduler is given at once."""


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluation tasks, drawn from their own seed, not the run's.

    ``adaptation`` holds what else decides the scores and may change between two sessions of a run.
    """

    split: Split
    tasks: int
    seed: int
    chunk_size: int
    shape: TaskShape
    data: str
    adaptation: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else decides the tasks, according to the source."""

    @property
    def hash(self) -> str:
        """Identifies the tasks. Only evaluations with the same hash may be compared."""
        facts = {
            "data": self.data,
            "split": self.split,
            "seed": self.seed,
            "tasks": self.tasks,
            # Rotations were part of every task's shape when the first results were recorded.
            "shape": asdict(self.shape) | {"rotations": "none"} | dict(self.settings),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def key(self) -> str:
        """Scores of one theta with the same key are equal; those of two may be compared."""
        return hashlib.sha256(f"{self.hash} {self.adaptation}".encode()).hexdigest()[:16]


class Row(NamedTuple):
    """A metric after ``point`` inner steps: mean over tasks, and half its 95% interval, 1.96 · sd / sqrt(tasks)."""

    point: int
    metric: str
    mean: float
    ci95: float


class Scores(NamedTuple):
    """The scores of each task: metric -> [tasks, points], and the points in inner steps taken."""

    points: tuple[int, ...]
    metrics: dict[str, np.ndarray]

    def rows(self) -> list[Row]:
        """Means over tasks, metric by metric and point by point."""
        return [
            Row(point, metric, *interval(values[:, column]))
            for metric, values in self.metrics.items()
            for column, point in enumerate(self.points)
        ]


def evaluate(scorer: Scorer, theta: Any, plan: EvaluationPlan, tally: Tally | None = None) -> Scores:
    """Scores of theta on the plan's tasks, before adaptation and after inner steps.

    ``tally`` receives the answers. No report is kept: the scores are copied into one array for each metric. Chunks are
    handed out in waves, since a scheduler remembers those of its present and its last submission.
    """
    chunks = chunks_of(plan.seed, 0, plan.tasks, plan.chunk_size, purpose="evaluate", split=plan.split)
    points: tuple[int, ...] = ()
    metrics: dict[str, np.ndarray] = {}
    waves = (chunks[first : first + WAVE] for first in range(0, len(chunks), WAVE))
    for report in (report for wave in waves for report in scorer.score(theta, wave)):
        points, first = report.points, report.chunk * plan.chunk_size
        for name, values in report.metrics.items():
            if name not in metrics:
                metrics[name] = np.full((plan.tasks, len(points)), np.nan)
            metrics[name][first : first + len(values)] = values
        if tally is not None:
            tally.add(report.chunk, report.answers)
    return Scores(points, metrics)
