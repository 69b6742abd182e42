"""The curves of a run, from its journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.engine.interfaces import Entry
from pipeline.pictures.curves import Curve

BINS = 100
"""The most points of a curve: each is the mean of as many steps."""


def curves_of(entries: Iterable[Entry], steps: int) -> dict[str, Curve]:
    """Each metric of training and validation as a curve over outer steps.

    Args:
        entries: a journal's, which are read once.
        steps: of the run.
    """
    width = -(-steps // BINS)
    sums: dict[str, dict[int, list[float]]] = {}
    for entry in entries:
        if entry.kind != "train" and not entry.kind.startswith("validation/"):
            continue
        place = (entry.step - 1) // width if entry.kind == "train" else entry.step * BINS
        for name, value in entry.metrics.items():
            if np.isfinite(value):
                found = sums.setdefault(name, {}).setdefault(place, [0.0, 0.0, 0.0])
                found[:] = found[0] + value, found[1] + entry.step, found[2] + 1
    return {name: _curve(bins) for name, bins in sums.items()}


def _curve(bins: Mapping[int, list[float]]) -> Curve:
    total, steps, count = np.array(list(bins.values())).T
    return Curve(steps / count, total / count)
