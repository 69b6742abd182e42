"""Statistics of an evaluation, in float64: intervals over tasks, paired differences, accuracy by class, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z95 = 1.96
"""Standard deviations to each side of a 95% interval."""

BINS = 15
"""Bins of confidence of equal width."""


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean, and half-width of the 95% interval over tasks (nan for a single task)."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std(ddof=1) if len(array) > 1 else math.nan
    return float(array.mean()), float(Z95 * spread / math.sqrt(len(array)))


class Difference(NamedTuple):
    """The mean over tasks of one score less another's on the same task, and half its 95% interval."""

    mean: float
    half_width: float
    tasks: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half_width


def paired(scores_a: Sequence[float] | np.ndarray, scores_b: Sequence[float] | np.ndarray) -> Difference:
    """The paired difference A less B.

    Args:
        scores_a: A's score on each task.
        scores_b: B's on the same tasks, in the same order.

    Raises:
        ValueError: they are not scores of equally many tasks.

    >>> paired([0.9, 0.8, 0.7], [0.8, 0.8, 0.6]).tasks
    3
    """
    return Difference(*interval(np.subtract(scores_a, scores_b, dtype=np.float64)), len(scores_a))


class ClassAccuracy(NamedTuple):
    """A class's accuracy, its 95% interval, the tasks that it was in and the queries of it."""

    name: str
    accuracy: float
    low: float
    high: float
    tasks: int
    queries: int


class Confusion(NamedTuple):
    """How many queries of the class ``name`` were answered with the class ``taken_for``."""

    name: str
    taken_for: str
    times: int


def design_effect(sums_K6: np.ndarray) -> float:
    """By how much the variance of a class's accuracy is larger than if all its answers were independent, at least 1.

    They are not: answers of one task share its support set and its other classes. It is told from all classes
    together, since one class alone has few tasks.

    Args:
        sums_K6: of each class the number of tasks T, of queries n and of right answers r, and the sums over tasks of
            n², n·r and r².
    """
    tasks, asked, right, n2, nr, r2 = sums_K6[sums_K6[:, 0] > 1].T.astype(np.float64)
    share = right / asked
    residual = (r2 - 2 * share * nr + share * share * n2) * tasks / (tasks - 1)  # Σ (r - share · n)²
    independent = float((asked * share * (1 - share)).sum())
    return max(1.0, float(residual.sum()) / independent) if independent else 1.0


def wilson(share: float, answers: float) -> tuple[float, float]:
    """Wilson's 95% score interval of a share among so many independent answers. It lies within [0, 1]."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * answers)) / (1 + z2 / answers)
    half = Z95 / (1 + z2 / answers) * math.sqrt(share * (1 - share) / answers + z2 / (4 * answers**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


class ConfidenceBin(NamedTuple):
    """Answers of a confidence in (low, high]: how many, and their mean confidence and accuracy (none of none)."""

    low: float
    high: float
    answers: int
    confidence: float | None
    accuracy: float | None


class Calibration(NamedTuple):
    """How far confidence tells whether an answer is right.

    Args:
        ece: the expected calibration error: |accuracy - confidence| of each bin, weighted by its answers.
        answers: how many there were.
        bins: what the error is made of.
        nll: mean negative log-likelihood in nats and half its 95% interval over tasks.
        brier: the same of the Brier score, summed over slots: 0 to 2.
    """

    ece: float
    answers: int
    bins: tuple[ConfidenceBin, ...]
    nll: tuple[float, float]
    brier: tuple[float, float]


def calibration(bins_3B: np.ndarray, nll_T: np.ndarray, brier_T: np.ndarray) -> Calibration:
    """Calibration from the answers, right answers and sums of confidence in each bin, and each task's scores."""
    answers_B, right_B, confidence_B = bins_3B
    total = answers_B.sum()
    bins = tuple(
        ConfidenceBin(number / BINS, (number + 1) / BINS, int(n), *((s / n, r / n) if n else (None, None)))
        for number, (n, r, s) in enumerate(bins_3B.T.tolist())
    )
    ece = float(np.abs(right_B - confidence_B).sum() / total) if total else math.nan
    return Calibration(ece, int(total), bins, interval(nll_T), interval(brier_T))
