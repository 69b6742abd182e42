"""Sums over a fixed binary tree: the result depends on slots, not on the order of arrival."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def tree_sum(parts: Mapping[int, Tensor]) -> Tensor:
    """The sum of at least one part over the binary tree of slots; empty slots are skipped.

    Slots 2i and 2i + 1 are added first, then pairs of pairs. An aligned power-of-two block may be summed elsewhere.
    """
    level = dict(parts)
    while len(level) > 1 or next(iter(level)) != 0:
        above: dict[int, Tensor] = {}
        for slot in sorted(level):
            parent = slot // 2
            above[parent] = above[parent] + level[slot] if parent in above else level[slot]
        level = above
    return level[0]
