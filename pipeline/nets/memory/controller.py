"""The controller of a memory: an LSTM that sees an input and the last read."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.cells import LSTM
from pipeline.nets.net import fan_in_normal


class Controller:
    """It receives ``read`` numbers from the memory and sends it ``interface`` numbers.

    Its state before a step is {"h": [h, read], "c": c}, so that one product serves both.
    """

    def __init__(self, inputs: int, hidden: int, read: int, interface: int) -> None:
        self.cell = LSTM("controller", inputs, hidden)
        self.read, self.interface = read, interface

    def init(self, rng: np.random.Generator) -> Params:
        hidden, bound = self.cell.hidden, 1 / math.sqrt(self.cell.hidden)
        both = rng.uniform(-bound, bound, (self.cell.gates * hidden, hidden + self.read))
        return self.cell.init(rng) | {
            "controller/recurrent": torch.from_numpy(both),
            "interface/weight": fan_in_normal(rng, (self.interface, hidden), hidden, 1.0),
            "interface/bias": torch.zeros(self.interface),
        }

    def start(self, params: Params) -> Params:
        """The state before the first input."""
        bias = params["interface/bias"]
        return {"h": bias.new_zeros(self.cell.hidden + self.read), "c": bias.new_zeros(self.cell.hidden)}

    def see(self, params: Params, inputs: Tensor) -> Tensor:
        """The part of the computation on inputs [..., I] that does not depend on the state."""
        return self.cell.see(params, inputs)

    def step(self, params: Params, seen: Tensor, state: Params) -> tuple[Params, Tensor]:
        """{"h": h, "c": c} after an input, and the output for the memory [interface]."""
        after = self.cell.step(params, seen, state)
        return after, after["h"] @ params["interface/weight"].T + params["interface/bias"]
