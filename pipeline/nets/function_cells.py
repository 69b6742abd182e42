"""A search space for functions of one number, whose best cell for sine waves is known; ours, and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets.normalisation import Normaliser
from pipeline.nets.search_space import EDGES, SearchSpace

FunctionOp = Literal["skip", "relu", "sincos", "zero"]
SCALE = 5.0
"""Inputs of sinusoids lie within ±5."""


@dataclass(frozen=True)
class FunctionCellsConfig:
    """One cell of two edges, whose outputs are added.

    Attributes:
        cell: The op of each edge, or ``null`` for an algorithm that searches. Of an input x, ``skip`` gives the two
            features x/5 and 1, ``relu`` max(x, 0)/5 and max(-x, 0)/5, ``sincos`` sin x and cos x, and ``zero`` 0 and 0.
    """

    cell: Annotated[tuple[FunctionOp, ...], Len(EDGES, EDGES)] | None = ("sincos", "zero")


class FunctionCells(SearchSpace):
    """[N, 1] -> two features op_0(x) + op_1(x) [N, 2], and a linear head on them.

    The order of the two edges does not matter, so there are 10 cells.

    Raises:
        ConfigError: an input is not one number; a normalisation is asked for, and no layer is hidden.
    """

    Config: ClassVar[type[FunctionCellsConfig]] = FunctionCellsConfig
    ops = ("skip", "relu", "sincos", "zero")

    def __init__(
        self, config: FunctionCellsConfig, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool
    ) -> None:
        if input_shape != (1,):
            raise ConfigError(f"net.name: function_cells reads one number, the source gives {input_shape}; use mlp")
        if normalised:
            raise ConfigError("net.name: function_cells has no layer to normalise; set normalisation to none")
        self.cell, self.outputs, self.feature_shape = config.cell, outputs, (2,)

    def init_weights(self, rng: np.random.Generator) -> Params:
        return self.init_head(rng, self.features)

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        scaled, one = x / SCALE, torch.ones_like(x)
        pairs = {
            "skip": (scaled, one),
            "relu": (torch.relu(scaled), torch.relu(-scaled)),
            "sincos": (torch.sin(x), torch.cos(x)),
            "zero": (0 * one, 0 * one),
        }

        def op(name: str) -> Tensor:
            return torch.cat(pairs[name], 1)

        return self.along(0, params, op) + self.along(1, params, op)
