"""Tasks that are scored together: so few that their tensors need little memory, whatever a chunk is.

Learning keeps a graph of all its tasks, and a chunk is chosen by what that needs. An evaluation task often has more
queries, and would need many times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pipeline.engine.living import peak_bytes

BYTES = {"cpu": 1 << 26, "cuda": 1 << 32}
"""What the tensors of a piece may need, unless one task needs more."""


def piece_of(one: int, device: str) -> int:
    """The tasks of a piece, a power of two, where one of them needs so many bytes on a ``cpu`` or ``cuda`` device."""
    return 1 << max(BYTES[device] // max(one, 1), 1).bit_length() - 1


class Pieces:
    """Computes stacked tasks piece by piece.

    A piece is a power of two of tasks, by what one of them needs. That is counted from the shapes of tensors, never
    measured, so each worker takes the same pieces.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device.type
        self._sizes: dict[Any, int] = {}

    def __call__(self, compute: Callable[[Any], Any], tensors: Any) -> Any:
        """``compute(tensors)``, for trees of tensors whose first dimension is that of the tasks."""
        tasks = len(pytree.tree_leaves(tensors)[0])
        size = self._size(compute, tensors) if tasks > 1 else 1
        parts = [compute(_some(tensors, slice(first, first + size))) for first in range(0, tasks, size)]
        return parts[0] if len(parts) == 1 else pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)

    def _size(self, compute: Callable[[Any], Any], tensors: Any) -> int:
        shapes = tuple(leaf.shape[1:] for leaf in pytree.tree_leaves(tensors))
        if shapes not in self._sizes:
            one = peak_bytes(lambda: compute(_some(tensors, slice(1))))
            self._sizes[shapes] = piece_of(one, self._device)
        return self._sizes[shapes]


def _some(tensors: Any, rows: slice) -> Any:
    return pytree.tree_map(lambda leaf: leaf[rows], tensors)
