"""A network whose features another network of the same form gates: ANML's neuromodulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser

GATE = "neuromodulator/"
"""How the names of the gating network's leaves begin."""


class Gated(Net):
    """``net``, each of whose features is multiplied by a number in (0, 1) that the gating network gives for the input.

    Beaulieu et al., Learning to Continually Learn, arXiv 2002.09571. An inner loop does not adapt the gating network.
    """

    def __init__(self, net: Net) -> None:
        self.net, self.gate = net, net.body()
        self.outputs, self.feature_shape = net.outputs, net.feature_shape

    def init(self, rng: np.random.Generator) -> Params:
        own = self.net.init(rng)
        return own | {GATE + name: leaf for name, leaf in self.gate.init(rng).items()}

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        own = {name.removeprefix(GATE): leaf for name, leaf in params.items() if name.startswith(GATE)}
        gates = self.gate.embed(own, x, normalise)
        return self.net.embed(params, x, normalise) * torch.sigmoid(gates)

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        return features if self.outputs is None else self.net.read_out(params, features)

    def reads(self, data: Any) -> Any:
        return self.net.reads(data)

    def is_adapted(self, leaf: str) -> bool:
        return not leaf.startswith(GATE) and self.net.is_adapted(leaf)

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self.net.draw_masks(rng, rows)

    def draw_inner_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self.net.draw_inner_masks(rng, rows)
