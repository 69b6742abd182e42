"""Which worker computed which chunk, and when it had nothing to do."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.engine.interfaces import Span
from pipeline.pictures.canvas import blank, colour, label, plain

STEPS = 12
"""Outer steps whose chunks are shown."""
NAMED = 0.04
"""The share of the picture's width from which on a chunk is named."""
LEARN, SCORE, IDLE = colour(0), colour(4), "#E5E5E5"


def timeline(title: str, spans: Sequence[Span]) -> Figure:
    """The chunks of the last steps by worker; what is not covered by one is idle time.

    The share of busy time is that of all of ``spans``.
    """
    workers = sorted({one.worker for one in spans})
    began, ended = min(one.began for one in spans), max(one.ended for one in spans)
    learned = sorted({one.step for one in spans if one.work == "learn"})
    first = min((one.began for one in spans if one.work == "learn" and one.step in learned[-STEPS:]), default=began)
    shown = [one for one in spans if one.began >= first and (one.work == "learn" or one.began <= _last(spans))]
    end = max(one.ended for one in shown)
    scale, unit = (1000.0, "ms") if end - first < 2 else (1.0, "s")
    figure, (axes,) = blank(title, size=(10.0, 1.3 + 0.42 * len(workers)))
    for row, worker in enumerate(workers):
        axes.barh(row, (end - first) * scale, color=IDLE, height=0.8)
        own = [one for one in shown if one.worker == worker]
        axes.broken_barh(
            [((one.began - first) * scale, (one.ended - one.began) * scale) for one in own],
            (row - 0.4, 0.8),
            facecolors=[LEARN if one.work == "learn" else SCORE for one in own],
            edgecolor="white",
            lw=0.5,
        )
        for one in (one for one in own if one.ended - one.began > NAMED * (end - first)):
            middle, hue = ((one.began + one.ended) / 2 - first) * scale, "white" if one.work == "learn" else "black"
            axes.text(middle, row, f"{one.step}/{one.chunk}", ha="center", va="center", fontsize=6.5, color=hue)
    busy = {worker: sum(one.ended - one.began for one in spans if one.worker == worker) for worker in workers}
    nodes = {one.worker: one.node for one in spans}
    several = len(set(nodes.values())) > 1
    names = [
        f"worker {one}{f' on {nodes[one][:8]}' if several else ''}\nbusy {busy[one] / (ended - began):.0%}"
        for one in workers
    ]
    axes.set_yticks(range(len(workers)), [plain(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, (end - first) * scale)
    label(axes, f"time [{unit}], the last {min(STEPS, len(learned))} outer steps", "")
    keys = {"learning a chunk (outer step/chunk)": LEARN, "evaluating a chunk": SCORE, "idle": IDLE}
    axes.legend(
        handles=[Patch(color=hue, label=name) for name, hue in keys.items()],
        fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False,
    )  # fmt: skip
    return figure


def _last(spans: Sequence[Span]) -> float:
    return max((one.ended for one in spans if one.work == "learn"), default=float("inf"))
