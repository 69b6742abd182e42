"""The bytes of the tensors that a computation holds, counted as they are made and given back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.engine.dispatch_mode import DispatchMode


class Living(DispatchMode):
    """Counts the bytes of living tensors that were made within: ``now``, at most ``peak``, and all that were ``made``.

    It sees every operation, within the transforms of ``torch.func`` too. What an operation takes and gives back inside
    is not seen.

    >>> with Living() as living:
    ...     made = torch.zeros(256) + 1
    >>> living.peak
    2048
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.made = 0
        self._known: set[int] = set()

    def __enter__(self) -> Living:
        # Else counts would depend on when tensors of a cycle are collected, and on what collecting others raises.
        self._collects = gc.isenabled()
        gc.disable()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        if self._collects:
            gc.enable()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not any(one.alias_info for one in func._schema.returns):  # a view has the memory of what it shows
            for tensor in pytree.tree_leaves(made):
                if isinstance(tensor, Tensor):
                    self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.made += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.now -= size


def peak_bytes(compute: Callable[[], object]) -> int:
    """The most bytes that the tensors of a computation need at once; the same number each time, and on any machine.

    >>> peak_bytes(lambda: torch.zeros(256) + 1)
    2048
    """
    return counted(compute).peak


def counted(compute: Callable[[], object]) -> Living:
    """What a computation held and made. All that it made says how long it takes, by a factor of two."""
    with Living() as living:
        compute()
    return living
