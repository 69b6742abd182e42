"""Adds up contributions on the workers, so that the parameter actor gets a few, however many workers there are.

The sum over the tree may be made anywhere, part by part, with the same bits. So the time of a reduction grows with the
logarithm of the number of contributions: each round of calls leaves about one of ``FAN_IN``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

FAN_IN = 16
"""About how many contributions a worker adds up in a call, and the most that the parameter actor gets."""


class Summed(NamedTuple):
    """Handles by slot, and for each the slots of the contributions that are in it."""

    handles: dict[int, Any]
    slots: dict[int, tuple[int, ...]]

    def beneath(self, slots: Sequence[int]) -> tuple[int, ...]:
        """The contributions in the sums of these slots."""
        return tuple(one for slot in slots for one in self.slots[slot])


def summed(handles: Mapping[int, Any], add: Callable[[list[Any]], Any], fan_in: int) -> Summed:
    """The contributions, added up by ``add`` until about ``fan_in`` are left. It is given some in the order of slots.

    Those in one aligned power-of-two range of slots are a node of the tree.
    """
    now = Summed(dict(handles), {slot: (slot,) for slot in handles})
    while len(now.handles) > fan_in:
        size = _range(max(now.handles) + 1, len(now.handles), fan_in)
        groups: dict[int, list[int]] = {}
        for slot in sorted(now.handles):
            groups.setdefault(slot // size, []).append(slot)
        found = {
            slots[0]: add([now.handles[slot] for slot in slots]) if len(slots) > 1 else now.handles[slots[0]]
            for slots in groups.values()
        }
        now = Summed(found, {slots[0]: now.beneath(slots) for slots in groups.values()})
    return now


def by_turns(nodes: Mapping[int, str]) -> list[int]:
    """Workers, given with their nodes, so that all nodes come before one comes again: each has one link.

    >>> by_turns({0: "a", 1: "a", 2: "b"})
    [0, 2, 1]
    """
    turns: Counter[str] = Counter()
    ranked = []
    for worker, node in nodes.items():
        ranked.append((turns[node], worker))
        turns[node] += 1
    return [worker for _, worker in sorted(ranked)]


def _range(slots: int, parts: int, fan_in: int) -> int:
    """How many slots, a power of two, hold ``fan_in`` of so many parts or more on average."""
    return 1 << (-(-slots * fan_in // parts) - 1).bit_length()
