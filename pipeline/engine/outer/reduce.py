"""Sums over the canonical binary tree: the result depends on slots, never on who came first."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def tree_sum(parts: Mapping[int, Tensor]) -> Tensor:
    """Sum of the parts over the binary tree on their slots, holes skipped; at least one part.

    Slots 2i and 2i + 1 meet first, then the pairs of pairs, so any aligned power-of-two block may be summed elsewhere.
    """
    level = dict(parts)
    while len(level) > 1 or next(iter(level)) != 0:
        above: dict[int, Tensor] = {}
        for slot in sorted(level):
            parent = slot // 2
            above[parent] = above[parent] + level[slot] if parent in above else level[slot]
        level = above
    return level[0]
