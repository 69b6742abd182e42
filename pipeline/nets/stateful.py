"""A network with a state: one step of a recurrent cell lies between its features and its head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.cells import CELLS, CellName
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser

STATE = "state/"


class Stateful(Net):
    """A cell as wide as the body's features is fed (features, label), or (features, 0) where a label is asked for.

    A state joins the parameters as the leaves ``state/…``, which are a task's, and are not among those of ``init``.
    ``net`` has a head, and its outputs are as wide as a label. Raises ``ConfigError`` where it has no body.
    """

    def __init__(self, net: Net, cell: CellName) -> None:
        width = net.features
        self.encoder, self.outputs, self.feature_shape = net.body(), net.outputs, (width,)
        self.label = net.outputs or 0
        self.cell = CELLS[cell]("cell", width + self.label, width)

    def init(self, rng: np.random.Generator) -> Params:
        return self.encoder.init(rng) | self.cell.init(rng) | self.init_head(rng, self.features)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        features = self.encoder.embed(params, x, normalise)
        state = {name.removeprefix(STATE): leaf for name, leaf in params.items() if name.startswith(STATE)}
        unasked = features.new_zeros((len(features), self.label))
        return self.cell(params, torch.cat([features, unasked], -1), state)["h"]

    def draw_masks(self, rng: np.random.Generator, rows: int) -> Params:
        return self.encoder.draw_masks(rng, rows)

    def read(self, params: Params, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Params:
        """The leaves ``state/…`` after reading examples in order, from a state of nothing seen."""
        sequence = [torch.cat(example, -1) for example in zip(features, labels, strict=True)]
        last = self.cell.read(params, sequence, self.cell.start(sequence[0]))[-1]
        return {STATE + name: value for name, value in last.items()}
