"""What differs from layer to layer: gradients, and rates of inner steps that are learned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from pipeline.pictures.canvas import blank, colour, in_numbers, label
from pipeline.pictures.curves import WIDE

MOST = 24
"""Layers that are shown: a picture of more cannot be read."""


def gradients(title: str, norms: Mapping[str, np.ndarray]) -> Figure:
    """The gradient's norm by layer, one dot for each task and a bar at their mean. ``norms``: layer -> [tasks]."""
    shown = list(norms.items())[:MOST]
    figure, (axes,) = blank(title, size=(8.0, 1.2 + 0.28 * len(shown)))
    for row, (_, values) in enumerate(shown):
        axes.barh(row, values.mean(), color=colour(5), height=0.6, label="mean over tasks" if not row else None)
        axes.plot(values, np.full(len(values), row), "o", ms=4, color=colour(0), label="one task" if not row else None)
    every = np.concatenate([values for _, values in shown])
    if every.min() > 0 and every.max() > WIDE * every.min():
        axes.set_xscale("log")
        in_numbers(axes.xaxis)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.invert_yaxis()
    label(axes, "2-norm of the layer's part of the meta-gradient", "")
    axes.legend(fontsize=8, loc="best")
    return figure


def rates(title: str, learned: Mapping[str, np.ndarray], start: float | None, *, by_step: bool) -> Figure:
    """The learned rates of inner steps by layer.

    Args:
        title: of which theta.
        learned: layer -> its rates: one for each weight, or one for each inner step.
        start: what they started at, if it is known.
        by_step: whether a layer's rates are those of its inner steps.
    """
    shown = list(learned.items())[:MOST]
    figure, (axes,) = blank(title, size=(8.0, max(3.0, 1.2 + 0.32 * len(shown))))
    if by_step:
        for number, (name, values) in enumerate(shown):
            style = ("-", "--", ":")[number // 8]
            axes.plot(range(1, len(values) + 1), values, "o" + style, color=colour(number), label=name, lw=1.3, ms=4)
        axes.set_xticks(range(1, 1 + max(len(values) for _, values in shown)))
        label(axes, "inner step", "learned rate")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.boxplot(
            [values for _, values in shown],
            orientation="horizontal",
            whis=(0, 100),
            patch_artist=True,
            boxprops={"facecolor": colour(5)},
            medianprops={"color": colour(1), "lw": 2},
        )
        axes.set_yticks(range(1, len(shown) + 1), [name for name, _ in shown], fontsize=8)
        axes.invert_yaxis()
        label(axes, "learned rate of a weight (box: middle half, line: median, whiskers: all)", "")
    if start is not None:
        draw = axes.axhline if by_step else axes.axvline
        draw(start, color="black", ls=":", lw=1)
        axes.annotate(
            f"start {start:g}",
            (1.0, start) if by_step else (start, 1.0),
            xycoords=("axes fraction", "data") if by_step else ("data", "axes fraction"),
            ha="right" if by_step else "left",
            va="bottom",
            fontsize=8,
        )
    return figure
