"""Memory RNN: a support set is read as a sequence, and a query is answered from the last hidden state.

The LSTM of Santoro et al. (arXiv 1605.06065), which has no memory but its state: the row beside MANN's. Also what
Hochreiter, Younger, Conwell: Learning to Learn Using Gradient Descent (2001), learn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.types import About, Params
from pipeline.families.memory import MemoryBased, ReadingConfig
from pipeline.nets.cells import CELLS, CellName


@dataclass(frozen=True)
class MemoryRNNConfig(ReadingConfig):
    """The recurrent network; published beside MANN is an LSTM of 200.

    Attributes:
        cell: The recurrent cell.
        hidden: Width of its state.
        previous: What of the example before stands beside an example of a sequence: it with its label, or the label
            alone, as published.
    """

    cell: CellName = "lstm"
    hidden: Width = 200


class Recurrent:
    """A cell as what reads a sequence: its answer is h."""

    def __init__(self, config: MemoryRNNConfig, inputs: int) -> None:
        self.cell, self.width = CELLS[config.cell]("cell", inputs, config.hidden), config.hidden

    def init(self, rng: np.random.Generator) -> Params:
        return self.cell.init(rng)

    def start(self, params: Params) -> Params:
        return self.cell.start(params["cell/input"][0])

    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        return self.cell.see(params, inputs_TI)

    def answer(self, params: Params, seen: Tensor, state: Params) -> Tensor:
        return self.cell.step(params, seen, state)["h"]

    def read(self, params: Params, seen: Tensor, state: Params) -> tuple[Tensor, Params]:
        after = self.cell.step(params, seen, state)
        return after["h"], after


class MemoryRNN(MemoryBased):
    """h_t = cell(x_t, y_t, h_{t-1}) over a support set; the answer to a query x is a linear function of cell(x, 0, h).

    In a sequence a label is shown after its answer: h_t = cell(x_t, x_{t-1}, y_{t-1}, h_{t-1}), or without x_{t-1}
    (``previous: label``), as published.
    """

    Config: ClassVar[type[MemoryRNNConfig]] = MemoryRNNConfig
    about: ClassVar[About] = About(
        "memory", "Hochreiter, Younger, Conwell 2001; as in Santoro et al. 2016, arXiv 1605.06065"
    )

    def make_sequence_model(self, inputs: int) -> Recurrent:
        return Recurrent(self.config, inputs)
