"""Curves over inner steps and over outer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.pictures.canvas import blank, colour, in_numbers, label

BINS = 30
FEW = 40
"""Points of a curve that are marked."""
WIDE = 30
"""The ratio from which on an axis is logarithmic."""


class Curve(NamedTuple):
    """A series: ``steps`` [N] and ``values`` [N]; ``spread`` [N] is half a 95% interval where it is known."""

    steps: np.ndarray
    values: np.ndarray
    spread: np.ndarray | None = None


def adaptation(title: str, curves: Mapping[str, Curve], tasks: np.ndarray, metric: str, unit: str) -> Figure:
    """The metric by inner steps, with its 95% interval over tasks, and how it is spread over tasks.

    A method that adapts at once has one point: it is shown as the spread alone.

    Args:
        title: what was evaluated on what.
        curves: which theta -> its metric by inner steps taken.
        tasks: the metric of each task at each point, [tasks, points], of the first of ``curves``.
        metric: its name.
        unit: ``share`` for a number in [0, 1], else the unit, or "".
    """
    points = next(iter(curves.values())).steps.tolist()
    stepped = len(points) > 1
    figure, axes = blank(title, 1, 1 + stepped)
    if stepped:
        _by_step(axes[0], curves, len(tasks), f"{metric}{_behind(unit)}")
    _spread(axes[-1], tasks, points, f"{metric} of a task{_behind(unit)}")
    for one in ([axes[0].yaxis] if stepped else []) + [axes[-1].xaxis]:
        if unit == "share":
            one.set_major_formatter(PercentFormatter(1.0, decimals=None))
    return figure


def _by_step(axes: Axes, curves: Mapping[str, Curve], tasks: int, metric: str) -> None:
    for number, (name, (points, mean, half)) in enumerate(curves.items()):
        axes.errorbar(points, mean, half, fmt="os"[number % 2] + "-", ms=5, capsize=4, color=colour(number), label=name)
    if max(points) > 20:
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xticks(points, [str(point) for point in points.tolist()])
    axes.set_xticks([], minor=True)
    label(axes, "inner steps taken", metric, f"mean over {tasks} tasks, with its 95% interval")
    axes.legend(fontsize=8)


def _spread(axes: Axes, values: np.ndarray, points: Sequence[int], metric: str) -> None:
    shown = [0, len(points) - 1] if len(points) > 1 else [0]
    finite = [values[np.isfinite(values[:, column]), column] for column in shown]
    low, high = (float(bound) for bound in (np.min(np.concatenate(finite)), np.max(np.concatenate(finite))))
    edges = np.linspace(
        low, high if high > low else low + 1e-6 + abs(low) * 1e-6, min(BINS, 4 + 2 * round(len(values) ** 0.5)) + 1
    )
    names = ["before adaptation", f"after {points[-1]} inner steps"] if len(shown) > 1 else ["adapted at once"]
    for column, name in enumerate(names):
        look: dict[str, Any] = {"histtype": "step", "lw": 1.5} if column + 1 < len(names) else {"alpha": 0.5}
        axes.hist(finite[column], edges.tolist(), color=colour(1 - column if len(names) > 1 else 0), label=name, **look)
    axes.axvline(float(np.mean(finite[-1])), color="black", ls=":", lw=1.2, label=f"mean {np.mean(finite[-1]):.4g}")
    label(axes, metric, "tasks", f"spread over {len(values)} tasks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def training(title: str, panels: Mapping[str, Mapping[str, Curve]], units: Mapping[str, str]) -> Figure:
    """Curves over outer steps: one panel for each of ``panels``, whose curves go by name.

    ``units`` says of a panel ``share`` (a number in [0, 1]), ``log`` (its axis is logarithmic where values differ
    much), a unit, or nothing.
    """
    figure, axes = blank(title, 1, len(panels))
    for one, (name, curves) in zip(axes, panels.items(), strict=True):
        unit = units.get(name, "")
        for number, (what, curve) in enumerate(curves.items()):
            style: dict[str, Any] = {"marker": "os^D"[number % 4], "ms": 4} if len(curve.steps) <= FEW else {}
            one.errorbar(*curve, color=colour(number), lw=1.4, capsize=4, label=what, **style)
        values = np.concatenate([curve.values for curve in curves.values()])
        if unit == "log" and values.min() > 0 and values.max() > WIDE * values.min():
            one.set_yscale("log")
            in_numbers(one.yaxis)
        elif unit == "share":
            one.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        label(one, "outer step", name + ("" if unit == "log" else _behind(unit)))
        one.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        one.legend(fontsize=8)
    return figure


def _behind(unit: str) -> str:
    return f" [{unit}]" if unit not in ("", "share") else ""
