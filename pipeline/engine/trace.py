"""Which inner steps of an evaluation task are scored."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.types import A


def scored_points(trace: Iterable[A]) -> dict[int, A]:
    """The elements of a trace that are scored: all of 11 or fewer, else those at 0, 1, 2, 5, 10, 20, … and the last.

    Others are let go as the trace goes on, so a long one needs the memory of these alone.
    """
    kept: dict[int, A] = {}
    for point, adapted in enumerate(trace):
        kept = {earlier: value for earlier, value in kept.items() if point < 11 or _in_series(earlier)}
        kept[point] = adapted
    last = max(kept)
    return {point: kept[point] for point in kept if last < 11 or point == last or _in_series(point)}


def _in_series(point: int) -> bool:
    """Whether it is 0, or 1, 2 or 5 times a power of ten."""
    return str(point).rstrip("0") in ("", "1", "2", "5")
