"""A network with one more class: that of fakes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.core.network import HEAD
from pipeline.core.types import Params
from pipeline.nets.net import Net, fan_in_normal
from pipeline.nets.normalisation import Normaliser

WEIGHT, BIAS = f"{HEAD}fake_weight", f"{HEAD}fake_bias"


class WithFakeClass(Net):
    """``net`` with one more output, the last: a linear function of the same features. The others are as they were."""

    def __init__(self, net: Net) -> None:
        self.net, self.outputs, self.feature_shape = net, (net.outputs or 0) + 1, net.feature_shape

    def init(self, rng: np.random.Generator) -> Params:
        own = self.net.init(rng)
        return own | {WEIGHT: fan_in_normal(rng, (1, self.features), self.features, 1.0), BIAS: torch.zeros(1)}

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        return self.net.embed(params, x, normalise)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        fake = features @ params[WEIGHT].T + params[BIAS]
        return torch.cat([self.net.read_out(params, features), fake], -1)

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self.net.draw_masks(rng, rows)
