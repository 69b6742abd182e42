"""Flips, crops and jitter of pictures, drawn from a task's own stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey (ITU-R BT.601)."""


class Changes(NamedTuple):
    """What is done to each of N pictures. A part that is None changes nothing.

    Args:
        flipped: [N], whether left and right are exchanged.
        shifts: [N, 2] int64, the first row and column that is kept of a padded picture.
        factors: [N, 3] float32, of brightness, contrast and saturation.
    """

    flipped: Tensor | None
    shifts: Tensor | None
    factors: Tensor | None


def together(every: Sequence[Changes]) -> Changes:
    """The changes of several tasks, drawn by one ``Augmentation``, as those of all their pictures."""
    return Changes(*(None if column[0] is None else torch.cat(column) for column in zip(*every, strict=True)))


class Augmentation(NamedTuple):
    """What may be done to a picture of a training task.

    Args:
        flip: whether each picture is flipped with a probability of one half.
        crop: the pixels of black padding on each side, of which a crop of the old size is taken.
        jitter: factors of brightness, contrast and saturation are drawn between 1 - jitter and 1 + jitter.
    """

    flip: bool = False
    crop: int = 0
    jitter: float = 0.0

    def draw(self, rng: np.random.Generator, count: int) -> Changes:
        """The changes of a task's ``count`` pictures. What is off draws nothing."""
        flipped = rng.integers(2, size=count) == 1 if self.flip else None
        shifts = rng.integers(2 * self.crop + 1, size=(count, 2)) if self.crop else None
        factors = rng.uniform(1 - self.jitter, 1 + self.jitter, (count, 3)) if self.jitter else None
        return Changes(
            None if flipped is None else torch.from_numpy(flipped),
            None if shifts is None else torch.from_numpy(shifts),
            None if factors is None else torch.from_numpy(factors.astype(np.float32)),
        )

    def apply(self, pixels: Tensor, changes: Changes) -> Tensor:
        """Pictures uint8 [N, C, H, W] after their changes, as float32 in [0, 1]."""
        if changes.flipped is not None:
            pixels = torch.where(changes.flipped[:, None, None, None], pixels.flip(-1), pixels)
        if changes.shifts is not None:
            pixels = shifted(pixels, self.crop, changes.shifts)
        x = pixels.to(torch.float32).div_(255)
        return x if changes.factors is None else jitter_(x, changes.factors)


def shifted(x: Tensor, padding: int, shifts: Tensor) -> Tensor:
    """Each picture of [N, C, H, W], padded by zeros on each side, from its row and column of ``shifts`` [N, 2] on."""
    height, width = x.shape[2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(x)), :, shifts[:, 0], shifts[:, 1]]


def jitter_(x: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of pictures [N, C, H, W] in place, each clipped to [0, 1].

    Brightness b gives b·x. Contrast c gives m + c·(x - m), where m is the picture's mean grey. Saturation s gives
    g + s·(x - g), where g is each pixel's grey; a picture of one channel has none.
    """
    brightness, contrast, saturation = factors.T[..., None, None, None]
    x.mul_(brightness).clamp_(0, 1)
    mean = grey(x).mean((1, 2, 3), keepdim=True)
    x.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    if x.shape[1] == 3:
        levels = grey(x)
        x.mul_(saturation).add_(levels.mul_(1 - saturation)).clamp_(0, 1)
    return x


def grey(x: Tensor) -> Tensor:
    """[N, 1, H, W] of [N, C, H, W]."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.split(1, dim=1)
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
