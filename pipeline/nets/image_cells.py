"""A search space for images that is small enough to be enumerated: 16 cells; ours, in the manner of DARTS.

A skip does not care for its place, so 13 of the cells are different networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Len
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.convolution import conv2d
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import Normaliser
from pipeline.nets.pooling import max_pool2d
from pipeline.nets.search_space import EDGES, SearchSpace

ImageOp = Literal["conv3", "sep_conv5", "max_pool3", "skip"]
CELLS = 2


@dataclass(frozen=True)
class ImageCellsConfig:
    """A stem, and two cells of the same architecture with weights of their own.

    Attributes:
        channels: Channels of every map.
        cell: The op of the first edge of a cell and of the second, which follows it; or ``null`` for an algorithm that
            searches. ``conv3`` is a 3×3 convolution, ``sep_conv5`` a 5×5 convolution of each channel and a 1×1 one of
            all, ``max_pool3`` a 3×3 max pooling, and ``skip`` leaves a map as it is.
    """

    channels: Annotated[int, Ge(1), Le(1 << 10)] = 16
    cell: Annotated[tuple[ImageOp, ...], Len(EDGES, EDGES)] | None = ("conv3", "sep_conv5")


class ImageCells(SearchSpace):
    """[N, C, H, W] -> a 3×3 stem of stride 2, then twice a cell and a 2×2 max pooling; all positions are read.

    As in DARTS an op of a convolution is ReLU, convolution, normalisation, and normalisations of ops have no learned
    scale or shift: else a weight could undo an op's share. A pooling is normalised too.

    Raises:
        ConfigError: the input is no image, or too small.
    """

    Config: ClassVar[type[ImageCellsConfig]] = ImageCellsConfig
    ops = ("conv3", "sep_conv5", "max_pool3", "skip")

    def __init__(
        self, config: ImageCellsConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        if len(input_shape) != 3:
            raise ConfigError(
                f"net.name: image_cells needs images [channels, height, width], the source gives {input_shape}; use mlp"
            )
        sides = [(side + 1) // 2 // 2**CELLS for side in input_shape[1:]]
        if min(sides) < 1:
            raise ConfigError(f"net.name: image_cells halves an image three times, {input_shape[1:]} is too small")
        self.channels, self.cell, self.outputs, self.normalised = config.channels, config.cell, outputs, normalised
        self.input_channels, self.feature_shape = input_shape[0], (config.channels, *sides)

    def init_weights(self, rng: np.random.Generator) -> Params:
        wide = self.channels
        params = {"stem/weight": fan_in_normal(rng, (wide, self.input_channels, 3, 3), 9 * self.input_channels)}
        params["stem/bias"] = torch.zeros(wide)
        if self.normalised:
            params["stem/scale"] = torch.ones(wide)
        for cell in range(CELLS):
            for edge, op in self.used():
                place = _place(cell, edge, op)
                if op == "conv3":
                    params[f"{place}/weight"] = fan_in_normal(rng, (wide, wide, 3, 3), 9 * wide)
                if op == "sep_conv5":
                    params[f"{place}/depthwise"] = fan_in_normal(rng, (wide, 1, 5, 5), 25)
                    params[f"{place}/pointwise"] = fan_in_normal(rng, (wide, wide, 1, 1), wide, 1.0)
        return params | self.init_head(rng, self.features)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        h = conv2d(x, params["stem/weight"], stride=2, padding=1)
        h = torch.relu(normalise("stem", h, params.get("stem/scale"), params["stem/bias"]))
        for cell in range(CELLS):
            for edge in range(EDGES):
                h = self._edge(params, cell, edge, h, normalise)
            h = max_pool2d(h, 2)
        return h.flatten(1)

    def _edge(self, params: Params, cell: int, edge: int, h: Tensor, normalise: Normaliser) -> Tensor:
        def op(name: str) -> Tensor:
            place = _place(cell, edge, name)
            if name == "skip":
                return h
            if name == "max_pool3":
                out = F.max_pool2d(h, 3, stride=1, padding=1)
            elif name == "conv3":
                out = conv2d(torch.relu(h), params[f"{place}/weight"], padding=1)
            else:
                each = conv2d(torch.relu(h), params[f"{place}/depthwise"], padding=2, groups=self.channels)
                out = conv2d(each, params[f"{place}/pointwise"])
            return normalise(place, out, None, out.new_zeros(self.channels))

        return self.along(edge, params, op)


def _place(cell: int, edge: int, op: str) -> str:
    return f"cell{cell}/edge{edge}/{op}"
