"""A table that can be learnt: 24 classes of 20 rows, six columns of very unequal size, written by our own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.tasks import tablefile
from pipeline.tasks.standardise import Standardise

CLASSES, EACH, COLUMNS = 24, 20, 6
SPLITS = {"random": {"train": range(12), "val": range(12, 16), "test": range(16, 24)}}


def rows() -> np.ndarray:
    """Raw rows [CLASSES · EACH, COLUMNS], sorted by class: a centre for each class, and noise."""
    rng = np.random.default_rng(7)
    centres = rng.normal(0.0, 2.0, (CLASSES, 1, COLUMNS))
    unit = (centres + rng.normal(0.0, 1.0, (CLASSES, EACH, COLUMNS))).reshape(-1, COLUMNS)
    return unit * 10.0 ** np.arange(-2, COLUMNS - 2) + 5.0


def write(path: Path) -> Path:
    raw, names = rows(), [f"class {number:02}" for number in range(CLASSES)]
    splits = {name: {split: list(classes) for split, classes in sets.items()} for name, sets in SPLITS.items()}
    fitted = Standardise.fit([f"c{number}" for number in range(COLUMNS)], raw[: 12 * EACH])
    features = fitted.prepare(raw, "raw")
    tablefile.write(path, features, [EACH] * CLASSES, names, splits, "made by tests/small_table.py", fitted)
    return path
