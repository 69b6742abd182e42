"""The relation head: a network that scores the similarity of two embeddings (arXiv 1711.06025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.types import Params
from pipeline.nets.convolution import conv2d
from pipeline.nets.net import Net, fan_in_normal
from pipeline.nets.normalisation import Normaliser
from pipeline.nets.pooling import max_pool2d

BLOCKS = 2


@dataclass(frozen=True)
class RelationConfig:
    """``hidden`` units between the blocks and the answer; published are 8."""

    hidden: Width = 8


class Relation(Net):
    """Two embeddings, concatenated along their channels, to one logit.

    Of maps: two blocks of 3×3 convolution, normalisation, ReLU and, while there is anything to shrink, 2×2 max-pooling,
    then linear, ReLU, linear, as published. Of vectors: the two linear layers alone.

    Its first layer is ``join``, apart from the rest: what it gives is the input of the network, of ``joined_shape``.
    """

    Config: ClassVar[type[RelationConfig]] = RelationConfig

    def __init__(
        self, config: RelationConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        """``input_shape`` is that of one embedding, (features,) or (channels, height, width)."""
        self.config, self.outputs, self.normalised = config, outputs, normalised
        self.channels, *self.sides = input_shape
        self.blocks = BLOCKS if self.sides else 0
        self.feature_shape = (config.hidden,)
        self.joined_shape = (self.channels, *self.sides) if self.sides else (config.hidden,)

    def init(self, rng: np.random.Generator) -> Params:
        params: Params = {}
        seen, sides = 2 * self.channels, tuple(self.sides)
        for i in range(self.blocks):
            params[f"relation{i}/weight"] = fan_in_normal(rng, (self.channels, seen, 3, 3), 9 * seen)
            params[f"relation{i}/bias"] = torch.zeros(self.channels)
            if self.normalised:
                params[f"relation{i}/scale"] = torch.ones(self.channels)
            seen, sides = self.channels, tuple(side // 2 for side in sides) if min(sides) > 1 else sides
        width = seen * math.prod(sides)
        params["hidden/weight"] = fan_in_normal(rng, (self.config.hidden, width), width)
        params["hidden/bias"] = torch.zeros(self.config.hidden)
        return params | self.init_head(rng, self.config.hidden)

    def join(self, params: Params, references: Tensor, queries: Tensor) -> Tensor:
        """Each of Q queries with each of R references, through the first layer: [Q·R, *joined_shape].

        That layer is linear, so a pair's is the sum of its halves', and Q + R halves take the place of Q·R pairs.
        """
        weight = params["relation0/weight" if self.blocks else "hidden/weight"]
        halves = (weight[:, : self.channels], weight[:, self.channels :])
        a_R, b_Q = (self._first(half, z) for half, z in zip(halves, (references, queries), strict=True))
        return (b_Q.unsqueeze(1) + a_R.unsqueeze(0)).flatten(0, 1)

    def _first(self, weight: Tensor, z: Tensor) -> Tensor:
        return conv2d(z.unflatten(1, (-1, *self.sides)), weight, padding=1) if self.blocks else z @ weight.T

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        h = x
        for i in range(self.blocks):
            h = conv2d(h, params[f"relation{i}/weight"], padding=1) if i else h
            h = normalise(f"relation{i}", h, params.get(f"relation{i}/scale"), params[f"relation{i}/bias"])
            h = torch.relu(max_pool2d(h, 2) if min(h.shape[2:]) > 1 else h)
        return torch.relu((h.flatten(1) @ params["hidden/weight"].T if self.blocks else h) + params["hidden/bias"])
