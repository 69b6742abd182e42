"""How many times as fast one kind of stretch is as another, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLINGS = 2000
BLOCKS = 20


class Ratio(NamedTuple):
    """Medians over steps of both kinds, in steps/s; ``value`` = new / old with its 95% interval.

    ``total`` is the same of steps by seconds in all: in a median, what is slow now and then does not show.
    """

    old: float
    new: float
    value: float
    low: float
    high: float
    total: float


def ratio(old: Sequence[np.ndarray], new: Sequence[np.ndarray], *, paired: bool = False) -> Ratio:
    """Of the rates in blocks of consecutive steps; ``paired`` where the n-th blocks were measured side by side.

    The interval is a bootstrap's over whole blocks: neighbouring steps are slow for the same reasons, and drawn one by
    one they would make it too narrow. Pairs are drawn together: what slowed both down does not make it wider.
    """
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLINGS):
        first = chance.integers(len(old), size=len(old))
        second = first if paired else chance.integers(len(new), size=len(new))
        drawn.append(_median([new[one] for one in second]) / _median([old[one] for one in first]))
    low, high = (float(bound) for bound in np.quantile(drawn, [0.025, 0.975]))
    return Ratio(_median(old), _median(new), _median(new) / _median(old), low, high, _total(new) / _total(old))


def blocks(rates: np.ndarray) -> list[np.ndarray]:
    """A stretch, cut into blocks."""
    return np.array_split(rates, min(BLOCKS, len(rates)))


def _median(stretches: Sequence[np.ndarray]) -> float:
    return float(np.median(np.concatenate(stretches)))


def _total(stretches: Sequence[np.ndarray]) -> float:
    return float(1 / np.mean(1 / np.concatenate(stretches)))
