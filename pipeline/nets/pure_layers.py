"""Layers in the place of torch's that are no pure functions or have wrong derivatives.

torch's fused normalisations of batches, layers and instances have wrong second derivatives in a backward pass through
``vmap``, without an error: up to 5% in a small network. torch's fused attention has no second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from pipeline.core.failures import ConfigError
from pipeline.core.network import DROPOUT
from pipeline.core.types import Params
from pipeline.nets.normalisation import BatchStatistics, Normaliser

WHOLE_MASK = (nn.Dropout,)
CHANNEL_MASK = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
FUSED = {"batch_norm": "BatchNorm2d", "layer_norm": "LayerNorm", "instance_norm": "InstanceNorm2d"}
"""Functions that have wrong second derivatives, and the layers that may be used for them."""


class Surroundings:
    """What a forward pass gives to the layers that cannot be pure by themselves: a normaliser and dropout masks."""

    def __init__(self) -> None:
        self.normalise: Normaliser = BatchStatistics()
        self.masks: Params = {}
        self.seen: dict[str, tuple[int, ...]] = {}


class BatchNorm(nn.Module):
    """In the place of torch's batch normalisation: the normalisation mode decides which statistics are used."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, *, learned: bool = True) -> None:
        super().__init__()
        for name, value in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
            if learned:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.name, self.around = "", Surroundings()

    @classmethod
    def of(cls, layer: _BatchNorm) -> BatchNorm:
        """With the scale and shift of torch's layer; constants where that has none."""
        ours = cls(layer.num_features, learned=layer.affine)
        if layer.affine:
            ours.weight.data, ours.bias.data = layer.weight.detach().clone(), layer.bias.detach().clone()
        return ours

    def forward(self, h: Tensor) -> Tensor:
        return self.around.normalise(self.name, h, self.weight, self.bias)


class Dropout(nn.Module):
    """In the place of torch's dropout: multiplies by the task's mask, and does nothing where there is none."""

    def __init__(self, share: float, *, channels: bool = False) -> None:
        super().__init__()
        self.share, self.channels = share, channels
        self.name, self.around = "", Surroundings()

    def forward(self, h: Tensor) -> Tensor:
        self.around.seen[self.name] = tuple(h.shape[1:2]) + (1,) * (h.dim() - 2) if self.channels else h.shape[1:]
        mask = self.around.masks.get(f"{DROPOUT}{self.name}")
        return h if mask is None else h * mask[: len(h)]


class LayerNorm(nn.LayerNorm):
    """torch's, of primitive operations."""

    def forward(self, h: Tensor) -> Tensor:
        h = _standardised(h, range(-len(self.normalized_shape), 0), self.eps)
        h = h if self.weight is None else h * self.weight
        return h if self.bias is None else h + self.bias


class InstanceNorm(nn.Module):
    """torch's, of primitive operations."""

    def __init__(self, layer: _InstanceNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = layer.eps, layer.weight, layer.bias

    def forward(self, h: Tensor) -> Tensor:
        h = _standardised(h, range(2, h.dim()), self.eps)
        along = (-1, *(1,) * (h.dim() - 2))
        h = h if self.weight is None else h * self.weight.view(along)
        return h if self.bias is None else h + self.bias.view(along)


def _standardised(h: Tensor, over: Collection[int], epsilon: float) -> Tensor:
    centred = h - h.mean(tuple(over), keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(tuple(over), keepdim=True) + epsilon)


@contextmanager
def primitive_attention() -> Iterator[None]:
    """Attention of primitive operations, and no fast path of a transformer layer: that one leaves out its dropout."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class OnlyPure(TorchFunctionMode):
    """Refuses calls of functions whose layers are replaced here: a function cannot be.

    Args:
        where: the recipe's key that errors name.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in FUSED:
            raise ConfigError(
                f"{self.where}: calls {name}, which has wrong second derivatives under vmap; use the layer torch.nn."
                f"{FUSED[name]}, which is replaced"
            )
        if "dropout" in name and given.get("p", args[1] if len(args) > 1 else 0.5):
            raise ConfigError(
                f"{self.where}: calls {name}, which has no effect here, since modules run in evaluation mode; use the "
                "layer torch.nn.Dropout, which is replaced"
            )
        return func(*args, **given)


def with_pure_layers(module: nn.Module, around: Surroundings, where: str) -> nn.Module:
    """The module with our normalisation and dropout layers, which know their own names."""
    replaced: dict[nn.Module, nn.Module] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if layer not in replaced:
            ours = replaced[layer] = _pure(layer, name, where)
            if isinstance(ours, BatchNorm | Dropout):
                ours.name, ours.around = name.replace(".", "/"), around
        if replaced[layer] is not layer:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, replaced[layer])
    return module


def _pure(layer: nn.Module, name: str, where: str) -> nn.Module:
    """The layer itself, or ours in its place."""
    kind = type(layer).__name__
    if isinstance(layer, nn.RNNBase):
        raise ConfigError(
            f"{where}: {name} is torch's {kind}, which cannot be vectorised over tasks and has no second derivative on "
            "a GPU; use the cells in pipeline.nets.cells"
        )
    if isinstance(layer, nn.MultiheadAttention) and layer.dropout:
        raise ConfigError(
            f"{where}: {name} drops attention weights, {kind}(dropout={layer.dropout:g}), which has no effect here, "
            f"since modules run in evaluation mode; set {name}.dropout = 0.0"
        )
    if isinstance(layer, _BatchNorm):
        return BatchNorm.of(layer)
    if isinstance(layer, nn.LayerNorm):
        norm = LayerNorm(layer.normalized_shape, layer.eps, elementwise_affine=False)
        norm.weight, norm.bias = layer.weight, layer.bias
        return norm
    if isinstance(layer, _InstanceNorm):
        if layer.track_running_stats:
            raise ConfigError(f"{where}: {name} is {kind} that tracks statistics; use track_running_stats=False")
        return InstanceNorm(layer)
    if isinstance(layer, (*WHOLE_MASK, *CHANNEL_MASK)):
        if layer.p == 1:
            raise ConfigError(f"{where}: {name} drops everything, {kind}(p=1.0); use a share below 1")
        return Dropout(layer.p, channels=isinstance(layer, CHANNEL_MASK)) if layer.p else nn.Identity()
    if isinstance(layer, _DropoutNd):
        raise ConfigError(f"{where}: {name} is {kind}; use torch.nn.Dropout or Dropout2d")
    return layer
