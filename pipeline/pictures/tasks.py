"""Single tasks: images with their answers, curves with their fits, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from pipeline.pictures.canvas import RIGHT, WRONG, blank, colour, label, plain

MOST_WAYS, MOST_SHOTS, MOST_QUERIES = 10, 2, 8
"""What is shown of a task: more cannot be read."""
HARDEST = 12
NAMED = 0.25
"""The share from which on a wrong class is named: less has no room for a name."""
SHARES = (RIGHT, WRONG, colour(4), "#D9D9D9")


class Episode(NamedTuple):
    """A task of images: support and query sets as pixels [N, C, H, W] in [0, 1] with slots [N], and the answers."""

    name: str
    support: np.ndarray
    support_y: np.ndarray
    query: np.ndarray
    query_y: np.ndarray
    answers: np.ndarray


class Fit(NamedTuple):
    """An answer to all inputs of a grid: ``mean`` [G], with a ``deviation`` [G] where it is a density."""

    label: str
    mean: np.ndarray
    deviation: np.ndarray | None = None


class Regression(NamedTuple):
    """A task of one-dimensional inputs: points [N, 2] of (x, y), the grid [G], and its fits in order of adaptation."""

    name: str
    support: np.ndarray
    query: np.ndarray
    grid: np.ndarray
    fits: tuple[Fit, ...]


def episodes(title: str, shown: Sequence[Episode]) -> Figure:
    """Each task as a table: a row for each class, its support images, and its query images framed by right or wrong."""
    ways = [min(MOST_WAYS, int(one.support_y.max()) + 1) for one in shown]
    columns = 2 if len(shown) > 1 else 1
    rows = -(-len(shown) // columns)
    figure, axes = blank(title, rows, columns, size=(6.2, 0.6 + 0.54 * max(ways)))
    for place, one, rows_shown in zip(axes, shown, ways, strict=False):
        _episode(place, one, rows_shown)
    for place in axes[len(shown) :]:
        place.axis("off")
    frames = [Patch(fc="none", ec=RIGHT, lw=2, label="right"), Patch(fc="none", ec=WRONG, lw=2, ls="--", label="wrong")]
    axes[0].legend(handles=frames, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    return figure


def _episode(axes: Axes, one: Episode, ways: int) -> None:
    shots = min(MOST_SHOTS, int(np.bincount(one.support_y).max()))
    axes.set_xlim(-0.1, 1.4 + shots + MOST_QUERIES)
    axes.set_ylim(ways + 0.1, -0.45)
    axes.set_aspect("equal", adjustable="box", anchor="NW")
    axes.axis("off")
    share = (one.answers == one.query_y).mean()
    axes.set_title(plain(f"{one.name}: {share:.0%} right"), fontsize=10, loc="left")
    axes.text(1.0 + shots / 2, -0.1, "support", ha="center", fontsize=8)
    axes.text(
        1.3 + shots + MOST_QUERIES / 2,
        -0.1,
        "queries (wrong: the class that was answered)",
        ha="center",
        fontsize=8,
    )
    for way in range(ways):
        axes.text(0.85, way + 0.5, f"{way + 1}", ha="right", va="center", fontsize=9, weight="bold")
        for column, pixels in enumerate(one.support[one.support_y == way][:shots]):
            _image(axes, pixels, 1.0 + column, way)
        own = np.flatnonzero(one.query_y == way)[:MOST_QUERIES]
        for column, (pixels, answer) in enumerate(zip(one.query[own], one.answers[own], strict=True)):
            left, right = 1.3 + shots + column, bool(answer == way)
            _image(axes, pixels, left, way)
            edge: dict[str, Any] = {"ec": RIGHT, "lw": 1.5} if right else {"ec": WRONG, "lw": 2.5, "ls": "--"}
            axes.add_patch(Rectangle((left + 0.04, way + 0.04), 0.92, 0.92, fill=False, zorder=3, **edge))
            if not right:
                back = {"boxstyle": "round,pad=0.1", "fc": WRONG, "ec": "none"}
                axes.text(
                    left + 0.76,
                    way + 0.76,
                    f"{answer + 1}",
                    fontsize=7,
                    color="white",
                    zorder=4,
                    bbox=back,
                    ha="center",
                    va="center",
                    weight="bold",
                )


def _image(axes: Axes, pixels: np.ndarray, left: float, top: float) -> None:
    shown = np.moveaxis(pixels, 0, -1)
    shown = shown[..., 0] if shown.shape[-1] != 3 else shown
    axes.imshow(
        shown,
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        extent=(left + 0.06, left + 0.94, top + 0.94, top + 0.06),
        interpolation="nearest",
        aspect="equal",
    )


def fits(title: str, shown: Sequence[Regression]) -> Figure:
    """Each task's points, and what is answered to a grid of inputs before adaptation and after it."""
    columns = 2 if len(shown) > 1 else 1
    figure, axes = blank(title, -(-len(shown) // columns), columns, size=(5.2, 3.4))
    for place, one in zip(axes, shown, strict=False):
        for number, fit in enumerate(one.fits, 3 - len(one.fits)):
            hue, line = ((colour(1), ":"), (colour(4), "--"), (colour(0), "-"))[number]
            place.plot(one.grid, fit.mean, color=hue, lw=1.8, ls=line, label=fit.label)
            if fit.deviation is not None:
                low, high = fit.mean - 2 * fit.deviation, fit.mean + 2 * fit.deviation
                place.fill_between(one.grid, low, high, color=hue, alpha=0.18, lw=0)
        place.plot(*one.query.T, ".", color="#555555", ms=4, label="query points", zorder=3)
        place.plot(*one.support.T, "o", color="black", ms=5, label="support points", zorder=4)
        y = np.concatenate([one.query[:, 1], one.support[:, 1]])
        low, high = float(y.min()), float(y.max())
        room = 0.45 * max(high - low, 1e-3)
        place.set_ylim(low - room, high + room)
        label(place, "x", "y", f"{one.name}: {len(one.support)} support and {len(one.query)} query points")
    handles, names = axes[0].get_legend_handles_labels()
    if any(fit.deviation is not None for fit in shown[0].fits):
        handles, names = [*handles, Patch(color=colour(0), alpha=0.18)], [*names, "± 2 deviations"]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    for place in axes[len(shown) :]:
        place.axis("off")
    return figure


def confusion(title: str, names: Sequence[str], counts: np.ndarray) -> Figure:
    """How the queries of the hardest classes are answered: right, as one of two other classes, or as any other.

    Args:
        title: of which tasks.
        names: of all classes.
        counts: [classes, classes], the queries of a class (row) that were answered as another (column). Two classes
            can be confused only in a task that has both.
    """
    asked = counts.sum(1)
    shares = counts / np.maximum(asked, 1)[:, None]
    seen = np.flatnonzero(asked)
    hardest = seen[np.argsort(np.diag(shares)[seen], kind="stable")][:HARDEST]
    figure, (axes,) = blank(title, size=(11.0, 1.3 + 0.42 * len(hardest)))
    for row, one in enumerate(hardest):
        wrong = np.where(np.arange(len(names)) == one, 0.0, shares[one])
        first, second = np.argsort(-wrong, kind="stable")[:2] if len(names) > 1 else (one, one)
        parts = [("right", shares[one, one]), (names[first], wrong[first])]
        parts += [(names[second], wrong[second])] if second != first else []
        parts += [("others", 1 - sum(share for _, share in parts))]
        left = 0.0
        for (name, share), hue in zip(parts, SHARES, strict=False):
            axes.barh(row, share, left=left, color=hue, height=0.8, edgecolor="white")
            if share > 0.06:
                told = f"{share:.0%}" if name in ("right", "others") or share < NAMED else f"{share:.0%} {_short(name)}"
                light = "white" if hue in (RIGHT, WRONG) else "black"
                axes.text(left + share / 2, row, plain(told), ha="center", va="center", fontsize=7, color=light)
            left += share
    axes.set_yticks(
        range(len(hardest)), [plain(f"{_short(names[one])} ({asked[one]:.0f})") for one in hardest], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    label(axes, "share of the class's queries", "true class (its queries)")
    meant = ("answered right", "most frequent wrong class", "second wrong class", "other classes")
    keys = [Patch(color=hue, label=name) for hue, name in zip(SHARES, meant, strict=True)]
    axes.legend(handles=keys, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    return figure


def _short(name: str) -> str:
    """The end of a long name, where it differs from others."""
    return name if len(name) <= 28 else f"…{name[-27:]}"
