"""How ``vmap`` lifts the primitives of this folder: many tasks become more channels of one call.

The channels of B tasks lie side by side in one map [N, B · C, H, W]. There batch norm and pooling are one call for all
tasks, and convolutions with weights of each task's own are the groups of one convolution. A CPU computes such groups as
fast as one task alone where maps are in torch's ``channels_last`` format, which convolutions give.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Lift:
    """One ``vmap`` over ``size`` tasks."""

    def __init__(self, size: int) -> None:
        self.size = size

    def channels(self, maps: Tensor, dim: int | None) -> Tensor:
        """Maps [N, C, …], vmapped along ``dim`` or the same for all, as [N, size · C, …]."""
        lifted = maps.unsqueeze(1).expand(-1, self.size, *maps.shape[1:]) if dim is None else maps.movedim(dim, 1)
        return lifted.flatten(1, 2)

    def apart(self, maps: Tensor) -> Tensor:
        """Maps [N, size · C, …] as [N, size, C, …]: vmapped along dimension 1."""
        return maps.unflatten(1, (self.size, -1))

    def rows(self, tensor: Tensor, dim: int | None) -> Tensor:
        """Kernels, vectors or examples [R, …], vmapped along ``dim`` or the same for all, as [size · R, …]."""
        lifted = tensor.expand(self.size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return lifted.flatten(0, 1)

    def apart_rows(self, tensor: Tensor) -> Tensor:
        """[size · R, …] as [size, R, …]: vmapped along dimension 0."""
        return tensor.unflatten(0, (self.size, -1))


def channels_last(maps: Tensor) -> Tensor:
    """Maps [N, C, H, W] in torch's format of that name."""
    last = maps.contiguous(memory_format=torch.channels_last)
    # The stride of a dimension of one may be anything, and torch's gradient of grouped kernels is wrong with some.
    _, channels, height, width = last.shape
    return last.as_strided(last.shape, (height * width * channels, 1, width * channels, channels))


def as_in(maps: Tensor, like: Tensor) -> Tensor:
    """Maps in the format of ``like``: contiguous where that is, else ``channels_last``."""
    return maps.contiguous() if like.is_contiguous() or maps.dim() != 4 else channels_last(maps)
