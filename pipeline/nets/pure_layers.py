"""Layers in the place of torch's that are not pure functions: batch normalisation and dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pipeline.core.failures import ConfigError
from pipeline.core.network import DROPOUT
from pipeline.core.types import Params
from pipeline.nets.normalisation import BatchStatistics, Normaliser

WHOLE_MASK = (nn.Dropout,)


CHANNEL_MASK = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Surroundings:
    """What a forward pass gives to the layers that cannot be pure by themselves: a normaliser and dropout masks."""

    def __init__(self) -> None:
        self.normalise: Normaliser = BatchStatistics()
        self.masks: Params = {}
        self.seen: dict[str, tuple[int, ...]] = {}


class BatchNorm(nn.Module):
    """In the place of torch's batch normalisation: the normalisation mode decides which statistics are used."""

    def __init__(self, channels: int, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels) if weight is None else weight.detach().clone())
        self.bias = nn.Parameter(torch.zeros(channels) if bias is None else bias.detach().clone())
        self.name, self.around = "", Surroundings()

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


def with_pure_layers(module: nn.Module, around: Surroundings, where: str) -> nn.Module:
    """The module with our normalisation and dropout layers, which know their own names."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.RNNBase):
            raise ConfigError(
                f"{where}: {name} is torch's {type(layer).__name__}, which cannot be vectorised over tasks and has no "
                "second derivative on a GPU; use the cells in pipeline.nets.cells"
            )
        ours: nn.Module = layer
        if isinstance(layer, _NormBase):
            ours = BatchNorm(layer.num_features, layer.weight, layer.bias)
        elif isinstance(layer, (*WHOLE_MASK, *CHANNEL_MASK)):
            ours = Dropout(layer.p, channels=isinstance(layer, CHANNEL_MASK)) if layer.p else nn.Identity()
        elif isinstance(layer, _DropoutNd):
            raise ConfigError(f"{where}: {name} is {type(layer).__name__}; use torch.nn.Dropout or Dropout2d")
        if isinstance(ours, BatchNorm | Dropout):
            ours.name, ours.around = name.replace(".", "/"), around
        if ours is not layer:
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, ours)
    return module
