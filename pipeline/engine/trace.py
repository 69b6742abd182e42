"""Which inner steps of an evaluation task are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.core.types import A

FEW = 11
"""Points of a trace, or parts of a stream with the start before them, that are all scored."""


def scored_points(trace: Iterable[A], milestones: Sequence[int] = ()) -> dict[int, A]:
    """The elements of a trace that are scored: all of 11 or fewer, else those at 0, 1, 2, 5, 10, 20, … and the last.

    With ``milestones`` it is element 0 and those of the milestones, of which the same rule leaves out some by their
    number. Others are let go as the trace goes on, so a long one needs the memory of these alone.
    """
    if milestones:
        ends = (0, *milestones)
        wanted = {end for number, end in enumerate(ends) if len(ends) <= FEW or _in_series(number) or end == ends[-1]}
        return {point: adapted for point, adapted in enumerate(trace) if point in wanted}
    kept: dict[int, A] = {}
    for point, adapted in enumerate(trace):
        kept = {earlier: value for earlier, value in kept.items() if point < FEW or _in_series(earlier)}
        kept[point] = adapted
    last = max(kept)
    return {point: kept[point] for point in kept if last < FEW or point == last or _in_series(point)}


def _in_series(point: int) -> bool:
    """Whether it is 0, or 1, 2 or 5 times a power of ten."""
    return str(point).rstrip("0") in ("", "1", "2", "5")
