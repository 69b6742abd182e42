"""An image file that can be learnt: 24 classes of 20 noisy pictures, 16×16, written by the project's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.tasks import classfile
from pipeline.tasks.preparation import PicturePreparation

CLASSES, EACH, SIDE, BLOCK = 24, 20, 16, 4
NOISE = 24.0
PREPARED = PicturePreparation(SIDE, "grey").saved()
SPLITS = {"random": {"train": range(12), "val": range(12, 16), "test": range(16, 24)}}


def write(path: Path) -> Path:
    """Each class is a pattern of 4×4 grey blocks, its pictures that pattern under noise; the same bytes every time."""
    rng = np.random.default_rng(24)
    blocks = rng.integers(0, 256, (CLASSES, SIDE // BLOCK, SIDE // BLOCK))
    patterns = np.kron(blocks, np.ones((BLOCK, BLOCK)))
    pictures = patterns[:, None] + rng.normal(0.0, NOISE, (CLASSES, EACH, SIDE, SIDE))
    pixels = pictures.clip(0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE)
    names = [f"pattern {number:02}" for number in range(CLASSES)]
    splits = {name: {split: list(classes) for split, classes in sets.items()} for name, sets in SPLITS.items()}
    classfile.write(path, pixels, [EACH] * CLASSES, names, splits, "made by tests/small_images.py", PREPARED)
    return path
