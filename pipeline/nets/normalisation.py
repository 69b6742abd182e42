"""Normalisation modes, by what they may see. The mode affects few-shot accuracy most, so each number names it.

    transductive  statistics of the whole batch at hand: a query's answer depends on the other queries
    one_query     the support set plus one query at a time (Reptile's)
    support       statistics of the support set at the adapted weights
    running       statistics averaged over training (a state group of theta)
    layer, group  statistics of each example alone
    none          no normalisation

None of them calls torch's batch norm as it is, because that has wrong second derivatives under ``vmap``, without an
error.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.batch_norm import EPSILON, batch_norm, statistics_dtype

Mode = Literal["transductive", "one_query", "support", "running", "layer", "group", "none"]
MODES: tuple[Mode, ...] = get_args(Mode)
BATCH_MODES: frozenset[Mode] = frozenset({"transductive", "one_query", "support", "running"})


def refuse_batches(mode: Mode, why: str) -> None:
    """Raise ``ConfigError`` for a mode that looks at a batch, with the reason why there is none."""
    if mode in BATCH_MODES:
        raise ConfigError(f"normalisation: {mode!r} looks at a batch, and {why}; use none, layer or group")


def refuse_all_sets(mode: Mode, fitting: Mode) -> None:
    """Raise ``ConfigError`` for a mode that looks at all support sets at once, which come one after the other.

    Args:
        mode: the recipe's.
        fitting: of the modes that look at a batch, the one with which a method sees no set beside another.
    """
    if mode in BATCH_MODES - {fitting}:
        raise ConfigError(
            f"normalisation: {mode!r} looks at all support sets at once, and they come one after the other; use "
            f"{fitting}, none, layer or group"
        )


GROUPS = 8


class Normaliser(Protocol):
    """Normalises one hidden layer [N, C, …]; ``name`` tells layers apart, scale and shift (both [C] or None) follow."""

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor: ...


class BatchStatistics:
    """Normalises over the batch and keeps the moments it used, for one forward pass."""

    def __init__(self) -> None:
        self.moments: Params = {}

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        scale = torch.ones_like(shift) if scale is None else scale
        y, self.moments[f"{name}/mean"], self.moments[f"{name}/variance"] = batch_norm(h, scale, shift)
        return y


class FixedStatistics:
    """Normalises with moments taken elsewhere."""

    def __init__(self, moments: Params) -> None:
        self.moments = moments

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        return _standardise(h, self.moments[f"{name}/mean"], self.moments[f"{name}/variance"], scale, shift)


class ExampleStatistics:
    """Normalises each example over ``groups`` groups of channels: 1 is layer norm.

    Raises:
        ConfigError: the channels cannot be divided so, or each group would hold one value.
    """

    moments: Params = {}

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        if h.shape[1] % self.groups:
            raise ConfigError(
                f"normalisation: group makes {self.groups} groups of {name}, which has {h.shape[1]} channels"
            )
        grouped = h.to(statistics_dtype(h)).reshape(h.shape[0], self.groups, -1)
        if grouped.shape[2] == 1:
            raise ConfigError(
                f"normalisation: {self.groups} {'groups' if self.groups > 1 else 'group'} of one value each in {name}, "
                "which normalises them to a constant; make the layer wider, or use another mode"
            )
        centred = grouped - grouped.mean(2, keepdim=True)
        h = (centred * torch.rsqrt(centred.square().mean(2, keepdim=True) + EPSILON)).reshape(h.shape)
        return _scale_and_shift(h, scale, shift)


class NoStatistics:
    """Leaves the layer as it is; only the shift (the layer's bias) and a scale, if there is one, apply."""

    moments: Params = {}

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        return _scale_and_shift(h, scale, shift)


def _along_channels(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *(1,) * (like.dim() - 2))


def _standardise(h: Tensor, mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    # One multiply and one add over the large tensor: the rest happens on [C] vectors.
    factor = torch.rsqrt(variance + EPSILON)
    if scale is not None:
        factor = factor * scale
    return h * _along_channels(factor, h) + _along_channels(shift - mean * factor, h)


def _scale_and_shift(h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
    if scale is not None:
        h = h * _along_channels(scale, h)
    return h + _along_channels(shift, h)
