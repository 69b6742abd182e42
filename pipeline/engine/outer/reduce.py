"""Sums over a fixed binary tree: the result depends on slots, not on the order of arrival."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pipeline.core.types import Contribution


class TreeSum:
    """A sum over the binary tree of slots, whose parts come in the order of slots; empty slots are skipped.

    Slots 2i and 2i + 1 are added first, then pairs of pairs. So the sum of an aligned power-of-two block may be made
    elsewhere and added as a part in the slot of the block's first. It holds one partial sum for each level.
    """

    def __init__(self) -> None:
        self._partial: list[tuple[int, Tensor, bool]] = []

    def add(self, slot: int, part: Tensor) -> None:
        """A part in a slot after all slots so far."""
        while len(self._partial) > 1 and self._meets(-2, self._partial[-1][0]) < self._meets(-1, slot):
            self._join()
        self._partial.append((slot, part, False))

    def total(self) -> Tensor:
        """The sum of at least one part."""
        while len(self._partial) > 1:
            self._join()
        return self._partial[0][1]

    def _meets(self, at: int, slot: int) -> int:
        """The level of the tree at which a partial sum and a slot come together."""
        return (self._partial[at][0] ^ slot).bit_length()

    def _join(self) -> None:
        _, right, _ = self._partial.pop()
        slot, left, ours = self._partial.pop()
        self._partial.append((slot, left.add_(right) if ours else left + right, True))


def tree_sum(parts: Mapping[int, Tensor]) -> Tensor:
    """The sum of at least one part over the binary tree of slots."""
    total = TreeSum()
    for slot in sorted(parts):
        total.add(slot, parts[slot])
    return total.total()


def block_sum(slot: int, contributions: Iterable[Contribution]) -> Contribution:
    """The contribution of a block whose first slot is ``slot``, from those of its chunks, in order.

    They are added as they come, so that few are in memory at once. A chunk without a used task is an empty slot.
    """
    gradient, weights, groups, records = TreeSum(), {}, dict[str, None](), []
    for one in contributions:
        if one.weight > 0:
            gradient.add(one.chunk, torch.from_numpy(one.gradient))
            weights[one.chunk] = torch.tensor(one.weight, dtype=torch.float64)
            groups |= dict.fromkeys(one.groups)
            records += one.records
    if not weights:
        return one._replace(chunk=slot)
    return Contribution(slot, tuple(groups), gradient.total().numpy(), tree_sum(weights).item(), records)
