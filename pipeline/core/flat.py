"""Converts MetaParams to one flat vector, which is sent, stepped and hashed.

One vector per message is 2.5 times as fast as a dict of tensors at 5 MB.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.failures import InternalError
from pipeline.core.types import MetaParams, Params

T = TypeVar("T")


def cast(tree: T, dtype: torch.dtype) -> T:
    """A tree of tensors with those of a floating type in ``dtype``."""
    changed: T = pytree.tree_map_only(Tensor, lambda one: one.to(dtype) if one.is_floating_point() else one, tree)
    return changed


class Leaf(NamedTuple):
    """One named tensor's place in the vector."""

    group: str
    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Layout:
    """The order of theta's leaves in the vector: groups and leaves sorted by name, so it never depends on insertion."""

    def __init__(self, leaves: tuple[Leaf, ...], dtype: torch.dtype) -> None:
        self.leaves = leaves
        self.dtype = dtype
        self.size = leaves[-1].stop if leaves else 0
        self.groups: dict[str, slice] = {}
        for leaf in leaves:
            start = self.groups[leaf.group].start if leaf.group in self.groups else leaf.start
            self.groups[leaf.group] = slice(start, leaf.stop)

    @classmethod
    def of(cls, theta: MetaParams, dtype: torch.dtype) -> Layout:
        leaves, start = [], 0
        for group in sorted(theta):
            for name in sorted(theta[group]):
                tensor = theta[group][name]
                stop = start + math.prod(tensor.shape)
                leaves.append(Leaf(group, name, tuple(tensor.shape), start, stop))
                start = stop
        return cls(tuple(leaves), dtype)

    def pack(self, values: MetaParams) -> Tensor:
        """One vector [size]; a group missing from ``values`` is left at zero.

        Raises:
            InternalError: a leaf is missing or has another shape than the layout says.
        """
        vector = torch.zeros(self.size, dtype=self.dtype)
        for leaf in self.leaves:
            if leaf.group not in values:
                continue
            tensor = values[leaf.group].get(leaf.name)
            if tensor is None or tuple(tensor.shape) != leaf.shape:
                found = "no tensor" if tensor is None else f"shape {tuple(tensor.shape)}"
                raise InternalError(f"theta leaf {leaf.group}/{leaf.name}: expected shape {leaf.shape}, found {found}")
            vector[leaf.start : leaf.stop] = tensor.detach().reshape(-1).to(device="cpu", dtype=self.dtype)
        return vector

    def unpack(self, vector: Tensor) -> MetaParams:
        """Views into ``vector``: clone it first where it is shared."""
        theta: MetaParams = {}
        for leaf in self.leaves:
            theta.setdefault(leaf.group, {})[leaf.name] = vector[leaf.start : leaf.stop].view(leaf.shape)
        return theta

    def without(self, groups: Iterable[str]) -> tuple[str, ...]:
        """The names of all groups but these, in layout order."""
        left_out = set(groups)
        return tuple(group for group in self.groups if group not in left_out)


def join(params: Params) -> Tensor:
    """All coordinates of all leaves, in the order of their names, as one vector; differentiable."""
    return torch.cat([params[name].reshape(-1) for name in sorted(params)])


def split(vector: Tensor, like: Params) -> Params:
    """The leaves that ``join`` made the vector of, in the shapes of ``like``."""
    names = sorted(like)
    parts = torch.split(vector, [like[name].numel() for name in names])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}


def sha256(vector: Tensor) -> str:
    """Hash of the vector's bytes: two runs have the same theta if and only if these are equal."""
    return hashlib.sha256(vector.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
