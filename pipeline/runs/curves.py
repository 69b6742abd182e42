"""The curves of a run: those of training from its journal, and those of an evaluation into it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.engine.interfaces import Entry, Executor
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


def record_evaluation(executor: Executor, step: int, key: str, rows: Sequence[dict[str, Any]]) -> None:
    """Journal an evaluation: each metric as one curve, whose steps are the inner steps taken."""
    curves: dict[int, dict[str, float]] = {}
    for row in rows:
        name = f"eval/{row['metric']}" if row["theta"] == "last" else f"eval/{row['theta']}/{row['metric']}"
        found = {name: row["mean"], f"{name}_ci95": row["ci95"]}
        curves.setdefault(row["point"], {}).update({key: value for key, value in found.items() if math.isfinite(value)})
    # Another evaluation, and one of a later theta, is a series of its own.
    series = hashlib.sha256(f"{key} {step}".encode()).hexdigest()[:16]
    for point, metrics in sorted(curves.items()):
        executor.record(f"evaluation/{series}", point, metrics)
