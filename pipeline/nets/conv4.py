"""Four blocks of 3×3 convolution, normalisation and ReLU: the few-shot field's standard image network.

``shrink: stride`` with ``readout: mean`` is MAML's on Omniglot (arXiv 1703.03400, §5.2 and the authors' code);
``shrink: pool`` with ``readout: flatten`` is Vinyals et al.'s and ProtoNet's (arXiv 1703.05175, §3.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.convolution import conv2d
from pipeline.nets.net import Net, fan_in_normal
from pipeline.nets.normalisation import Normaliser
from pipeline.nets.pooling import max_pool2d

BLOCKS = 4


@dataclass(frozen=True)
class Conv4Config:
    """Four blocks of convolution.

    Attributes:
        channels: Channels of each block.
        shrink: What halves an image in each block: a stride of 2, or max pooling.
        readout: What of the last block's map is read: the mean over positions, or all of them.
        maps: The numbers that maps hold between layers: those of the weights, or ``bfloat16``, of 8 bits of mantissa.
            Weights, their gradients and all statistics stay what they are.
    """

    channels: Annotated[int, Ge(1), Le(1 << 12)] = 64
    shrink: Literal["stride", "pool"] = "stride"
    readout: Literal["mean", "flatten"] = "mean"
    maps: Literal["full", "bfloat16"] = "full"


class Conv4(Net):
    """[N, C, H, W] -> [N, outputs], or the embedding [N, channels (· positions)].

    Raises:
        ConfigError: the input is no image, or too small for four halvings.
    """

    Config: ClassVar[type[Conv4Config]] = Conv4Config

    def __init__(
        self, config: Conv4Config, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        if len(input_shape) != 3:
            raise ConfigError(
                f"net.name: conv4 needs images [channels, height, width], the source gives {input_shape}; use mlp"
            )
        sides = [self._side(config, side) for side in input_shape[1:]]
        if min(sides) < 1:
            raise ConfigError(
                f"net.name: conv4 halves an image four times, {input_shape[1:]} is too small; 16×16 is enough"
            )
        self.config, self.outputs, self.normalised = config, outputs, normalised
        self.input_channels = input_shape[0]
        self.feature_shape = (config.channels, *(sides if config.readout == "flatten" else ()))

    @staticmethod
    def _side(config: Conv4Config, side: int) -> int:
        for _ in range(BLOCKS):
            side = (side + 1) // 2 if config.shrink == "stride" else side // 2
        return side

    def init(self, rng: np.random.Generator) -> Params:
        params: Params = {}
        channels = self.input_channels
        for i in range(BLOCKS):
            params[f"block{i}/weight"] = fan_in_normal(rng, (self.config.channels, channels, 3, 3), 9 * channels)
            params[f"block{i}/bias"] = torch.zeros(self.config.channels)
            if self.normalised:
                params[f"block{i}/scale"] = torch.ones(self.config.channels)
            channels = self.config.channels
        return params | self.init_head(rng, self.features)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        stride = 2 if self.config.shrink == "stride" else 1
        kind = torch.bfloat16 if self.config.maps == "bfloat16" else x.dtype
        h = x.to(kind)
        for i in range(BLOCKS):
            h = conv2d(h, params[f"block{i}/weight"].to(kind), stride=stride, padding=1)
            h = normalise(f"block{i}", h, params.get(f"block{i}/scale"), params[f"block{i}/bias"]).to(kind)
            # ReLU after the pooling, which it commutes with: a quarter of the work.
            h = torch.relu(max_pool2d(h, 2) if self.config.shrink == "pool" else h)
        h = h.to(x.dtype)
        return h.mean((2, 3)) if self.config.readout == "mean" else h.flatten(1)
