"""Where a memory is read and written while it reads a task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.pictures.canvas import blank, colour, plain

MOST_STEPS = 80


def memory(title: str, read: np.ndarray, written: np.ndarray, labels: Sequence[str]) -> Figure:
    """Weights over slots at each step, of which heads are summed up.

    Args:
        title: of which task.
        read: [T, heads, slots], by which weights each step reads.
        written: [T, heads, slots], by which weights it writes.
        labels: of the T steps, the label of the example that is read.
    """
    steps = min(len(read), MOST_STEPS)
    figure, axes = blank(title, 1, 2, size=(max(4.4, 1.6 + 0.11 * steps), 4.0))
    several = read.shape[1] > 1
    for place, weights, name in zip(axes, (read, written), ("read", "written"), strict=True):
        summed = weights[:steps].sum(1).T
        drawn = place.imshow(summed, aspect="auto", cmap="viridis", vmin=0.0, interpolation="nearest", origin="lower")
        place.set_title(f"{name}, sum over {weights.shape[1]} heads" if several else name, fontsize=10)
        place.set_xlabel("example, by its label" if steps <= 40 else "example, in order")
        place.set_ylabel("slot of the memory")
        if steps <= 40:
            place.set_xticks(range(steps), [plain(one) for one in labels[:steps]], fontsize=7)
        figure.colorbar(drawn, ax=place, label="weight")
    for place in axes:
        for spine in place.spines.values():
            spine.set_color(colour(7))
    return figure
