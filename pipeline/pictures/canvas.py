"""What all pictures share: the colours, an empty figure, and its bytes.

Only matplotlib's objects are used, never ``pyplot``: that keeps figures in a global state and asks for a display.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which people who confuse red and green can tell apart."""
RIGHT, WRONG = COLOURS[0], COLOURS[1]
"""The colours of right and wrong answers."""
DPI = 100
COLUMNS = 12
"""The letters of a title's line in an inch."""


def colour(number: int) -> str:
    """The colour of series number ``number``; after the last they begin again."""
    return COLOURS[number % len(COLOURS)]


def blank(
    title: str,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (5.0, 3.6),
    share: Any = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with a title over ``rows`` × ``columns`` axes, row by row.

    Args:
        title: the first line stands out; further lines say under which conditions.
        rows: of axes.
        columns: of axes.
        size: of one of the axes with its labels, width and height in inches.
        share: whether all axes have the same limits.
    """
    head, *others = plain(title).splitlines()
    below = [line for other in others for line in textwrap.wrap(other, round(COLUMNS * columns * size[0]))]
    room = 0.32 + 0.2 * len(below)
    width, height = columns * size[0], rows * size[1] + room
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(rect=(0.0, 0.0, 1.0, 1 - room / height))  # type: ignore[union-attr, call-arg]
    figure.text(0.5, 1 - 0.06 / height, head, ha="center", va="top", fontsize=12, weight="bold")
    figure.text(0.5, 1 - 0.3 / height, "\n".join(below), ha="center", va="top", fontsize=9, linespacing=1.3)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flat)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name the axes; a light grid lies behind what is drawn."""
    axes.set_xlabel(plain(x))
    axes.set_ylabel(plain(y))
    if title:
        axes.set_title(plain(title), fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def in_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with numbers instead of powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file. ``savefig`` would draw it twice, to the same bytes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing"
        )  # names in a script that the font lacks are shown as boxes
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()
