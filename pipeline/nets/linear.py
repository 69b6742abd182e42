"""A linear map without a bias, for which learning moves one point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Rate
from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser

NO_BODY = "net.name: linear has no hidden layer to embed by; use mlp"


@dataclass(frozen=True)
class LinearConfig:
    """One linear map.

    Attributes:
        init_deviation: Weights start as N(0, ``init_deviation``²); 0.01 is the learned optimiser's authors' on
            quadratics.
    """

    init_deviation: Rate = 0.01


class Linear(Net):
    """Flattens its input; it is all head.

    Raises:
        ConfigError: a normalisation or an embedding is asked for, and there is no hidden layer to give it.
    """

    Config: ClassVar[type[LinearConfig]] = LinearConfig

    def __init__(
        self, config: LinearConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        if normalised:
            raise ConfigError(
                "net.name: linear has no hidden layer to normalise; set normalisation to none, or use mlp"
            )
        if outputs is None:
            raise ConfigError(NO_BODY)
        self.config, self.outputs, self.feature_shape = config, outputs, (math.prod(input_shape),)

    def init(self, rng: np.random.Generator) -> Params:
        shape = (self.outputs or 0, self.features)
        return {"head/weight": torch.from_numpy(rng.normal(0.0, self.config.init_deviation, shape))}

    def body(self) -> Net:
        raise ConfigError(NO_BODY)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        return x.flatten(1)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        return features @ params["head/weight"].T
