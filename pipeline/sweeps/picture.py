"""The picture of a sweep: the score against each setting that was varied, and the children's validation curves."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.sweeps.children import Child, Judge, best_of
from pipeline.sweeps.space import Axis, Choices, Range

COLUMNS, WIDTH, HEIGHT, DPI = 3, 4.4, 3.4, 110
DISTANT = 3.0
"""Scores farther from the median than so many times the width of the middle half of all are off the scale."""
SPREAD = 0.5
"""How far apart children with the same value of a list stand, where 1 is the next value."""
COLOURS, MARKERS = colormaps["viridis"], {"finished": "o", "stopped": "v"}


def picture(children: Sequence[Child], axes: Sequence[Axis], judge: Judge) -> bytes:
    """A PNG with a panel for each axis and one for the curves. The best child is marked with a ring."""
    scored = [one for one in children if one.score is not None]
    panels = len(axes) + 1
    rows = math.ceil(panels / COLUMNS)
    columns = math.ceil(panels / rows)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    best, limits = best_of(children, judge), _limits([one.score for one in scored if one.score is not None])
    for panel, axis in zip(grid, axes, strict=False):
        _against(panel, axis, children, best)
    _curves(grid[panels - 1], children, best)
    for panel in grid[:panels]:
        panel.set_ylabel(f"validation {judge.metric}{f' [{judge.unit}]' if judge.unit else ''}")
        panel.grid(alpha=0.25)
        if limits is not None:
            panel.set_ylim(*limits)
    for panel in grid[panels:]:
        panel.set_visible(False)
    better = "higher" if judge.higher_is_better else "lower"
    off = 0 if limits is None else sum(not limits[0] <= (one.score or 0.0) <= limits[1] for one in scored)
    failed = sum(one.state == "failed" for one in children)
    said = f"{len(children)} children, {better} is better, ring: the best"
    said += "".join(f", {count} {what}" for count, what in ((failed, "failed (×)"), (off, "off the scale")) if count)
    figure.suptitle(said, fontsize="medium")
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()


def _against(panel: Any, axis: Axis, children: Sequence[Child], best: Child | None) -> None:
    """Scores against one setting. Children with one value stand side by side, those that failed at the top.

    There are no intervals: all children have the same tasks, so that their differences are surer than their scores.
    """
    places = _places(axis, children)
    for one in children:
        place = places[one.values[axis.key]]
        if isinstance(axis, Choices):
            peers = [other for other in children if other.values[axis.key] == one.values[axis.key]]
            place += SPREAD * ((peers.index(one) + 0.5) / len(peers) - 0.5)
        if one.score is None:
            panel.plot(place, 0.97, "x", color="dimgrey", transform=panel.get_xaxis_transform())
            continue
        panel.plot(place, one.score, MARKERS[one.state], color=_colour(one, children), markersize=6)
        panel.annotate(str(one.number), (place, one.score), (4, 4), textcoords="offset points", fontsize="x-small")
        if one is best:
            panel.plot(place, one.score, "o", markersize=14, markerfacecolor="none", color="crimson")
    if isinstance(axis, Choices):
        shown = [text for text in axis.texts if text in places]
        panel.set_xticks([places[text] for text in shown], shown)
        panel.set_xlim(-0.6, len(shown) - 0.4)
        panel.tick_params(axis="x", rotation=30 if max(map(len, axis.texts)) > 8 else 0)
    elif axis.kind == "log":
        panel.set_xscale("log")
    elif axis.kind == "int":
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel(axis.key)


def _places(axis: Axis, children: Sequence[Child]) -> dict[str, float]:
    """Where each value stands: numbers of a range at themselves, values of a list one after the other."""
    if isinstance(axis, Range):
        return {one.values[axis.key]: float(one.values[axis.key]) for one in children}
    used = {one.values[axis.key] for one in children}
    return {text: float(number) for number, text in enumerate(text for text in axis.texts if text in used)}


def _limits(scores: Sequence[float]) -> tuple[float, float] | None:
    """The scale of all panels where some scores are far from the others; else None."""
    if len(scores) < 4:
        return None
    low, median, high = statistics.quantiles(scores, n=4)
    near = [score for score in scores if abs(score - median) <= DISTANT * (high - low)]
    if len(near) in (0, len(scores)):
        return None
    margin = 0.15 * (max(near) - min(near)) or 1.0
    return min(near) - margin, max(near) + margin


def _curves(panel: Any, children: Sequence[Child], best: Child | None) -> None:
    for one in children:
        if not one.curve:
            continue
        steps, scores = zip(*one.curve, strict=True)
        width = 2.5 if one is best else 1.0
        panel.plot(steps, scores, color=_colour(one, children), linewidth=width, alpha=1.0 if one is best else 0.7)
        if one.state == "stopped":
            panel.plot(steps[-1], scores[-1], "v", color=_colour(one, children), markersize=6)
        if one is best:
            panel.plot(steps[-1], scores[-1], "o", markersize=12, markerfacecolor="none", color="crimson")
    panel.set_xlabel("outer step")
    panel.set_title("validation on the way (▾: stopped)", fontsize="small")


def _colour(child: Child, children: Sequence[Child]) -> Any:
    """One colour for a child in all panels, from its number; without the map's lightest end."""
    return COLOURS(0.92 * (child.number - 1) / max(1, max(one.number for one in children) - 1))
