"""A multi-layer perceptron; 1-40-40-1 with ReLU is MAML's sinusoid network (arXiv 1703.03400, §5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from pipeline.core.bounds import Rate, Width
from pipeline.core.effects import NotWith
from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.net import Net, fan_in_normal
from pipeline.nets.normalisation import Normaliser


@dataclass(frozen=True)
class MLPConfig:
    """Fully connected layers.

    Attributes:
        hidden: Widths of the hidden layers; ``[]`` embeds an input as its own numbers, for a method that reads them as
            they are.
        activation: What follows each hidden layer.
        init_gain: Hidden weights start as N(0, init_gain / fan_in): 2 keeps the variance under ReLU, 1 under tanh.
    """

    hidden: Annotated[tuple[Width, ...], Len(0, 16)] = (40, 40)
    activation: Annotated[Literal["relu", "tanh"], NotWith(hidden=((),))] = "relu"
    init_gain: Annotated[Rate, NotWith(hidden=((),))] = 2.0


class MLP(Net):
    """Flattens its input; hidden layers are linear, normalise, activate.

    Raises:
        ConfigError: neither hidden layers nor a head.
    """

    Config: ClassVar[type[MLPConfig]] = MLPConfig

    def __init__(
        self, config: MLPConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        self.config = config
        self.normalised = normalised
        self.outputs = outputs
        self.widths = (math.prod(input_shape), *config.hidden)
        self.feature_shape = self.widths[-1:]
        if not config.hidden and outputs is None:
            raise ConfigError("net.hidden: [], but an embedding without layers has nothing to learn; give one or more")

    def init(self, rng: np.random.Generator) -> Params:
        params: Params = {}
        for i, (fan_in, width) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            params[f"layer{i}/weight"] = fan_in_normal(rng, (width, fan_in), fan_in, self.config.init_gain)
            params[f"layer{i}/bias"] = torch.zeros(width)
            if self.normalised:
                params[f"layer{i}/scale"] = torch.ones(width)
        return params | self.init_head(rng, self.features)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        h = x.flatten(1)
        for i in range(len(self.widths) - 1):
            h = h @ params[f"layer{i}/weight"].T
            h = normalise(f"layer{i}", h, params.get(f"layer{i}/scale"), params[f"layer{i}/bias"])
            h = torch.relu(h) if self.config.activation == "relu" else torch.tanh(h)
        return h
