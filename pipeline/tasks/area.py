"""Pictures made smaller by averaging over areas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.tasks.classfile import Pixels

Shares = npt.NDArray[np.float64]


def shares(side: int, new: int) -> Shares:
    """The overlap of ``side`` old pixels with ``new`` pixels: whole numbers [new, side]; each row sums to ``side``."""
    starts, old = np.arange(new)[:, None] * side, np.arange(side)[None, :] * new
    overlap = np.minimum(starts + side, old + new) - np.maximum(starts, old)
    return overlap.clip(0).astype(np.float64)


def average(pixels: Pixels, down: Shares, across: Shares) -> npt.NDArray[np.float32]:
    """Pixels [..., H, W] as float32 [..., new H, new W] in [0, 1], by the shares of both sides."""
    # All values are whole numbers, which float64 holds exactly, so that every machine gives the same bits.
    summed = down @ pixels.astype(np.float64) @ across.T
    return (summed / (255 * down[0].sum() * across[0].sum())).astype(np.float32)
