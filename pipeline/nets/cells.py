"""Recurrent cells as pure functions of their parameters. torch's fused ones have no second derivative on a GPU."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params

CellName = Literal["lstm", "gru"]


class Cell(ABC):
    """Holds shapes, never weights; its leaves are ``NAME/…``. A state is ``{"h": [..., hidden], …}``, a value."""

    gates: ClassVar[int]
    """How many vectors of ``hidden`` numbers one product computes from the input."""

    def __init__(self, name: str, inputs: int, hidden: int) -> None:
        self.name, self.inputs, self.hidden = name, inputs, hidden

    def init(self, rng: np.random.Generator) -> Params:
        """Weights U(±1/sqrt(hidden)), biases 0."""
        bound, rows = 1 / math.sqrt(self.hidden), self.gates * self.hidden
        return {
            f"{self.name}/input": torch.from_numpy(rng.uniform(-bound, bound, (rows, self.inputs))),
            f"{self.name}/recurrent": torch.from_numpy(rng.uniform(-bound, bound, (rows, self.hidden))),
            f"{self.name}/bias": torch.zeros(rows, dtype=torch.float64),
        }

    @abstractmethod
    def chrono(self, rng: np.random.Generator, params: Params, steps: int) -> Params:
        """The biases of fresh ``params`` by which the cell remembers for up to ``steps`` steps.

        Tallec & Ollivier (arXiv 1804.11188, §2): a gate that keeps has the bias log(u), u from U(1, steps - 1).
        """

    @abstractmethod
    def start(self, like: Tensor) -> Params:
        """The initial state: zeros [*like.shape[:-1], hidden] with the dtype and device of ``like``."""

    @abstractmethod
    def step(self, params: Params, seen: Tensor, state: Params) -> Params:
        """The state after what ``see`` made of an input."""

    def see(self, params: Params, x: Tensor) -> Tensor:
        """The share of inputs [..., inputs] in all gates [..., gates * hidden]: of a whole sequence in one product."""
        return x @ params[f"{self.name}/input"].T + params[f"{self.name}/bias"]

    def __call__(self, params: Params, x: Tensor, state: Params) -> Params:
        """The state after ``x`` [..., inputs]."""
        return self.step(params, self.see(params, x), state)

    def read(self, params: Params, xs: Sequence[Tensor], state: Params) -> tuple[Params, ...]:
        """The states after each of ``xs``, in order."""
        states = []
        for x in xs:
            state = self(params, x, state)
            states.append(state)
        return tuple(states)

    def _kept(self, rng: np.random.Generator, steps: int) -> Tensor:
        return torch.from_numpy(np.log(rng.uniform(1.0, steps - 1.0, self.hidden)))

    def _zeros(self, like: Tensor) -> Tensor:
        return like.new_zeros((*like.shape[:-1], self.hidden))


class LSTM(Cell):
    """Hochreiter & Schmidhuber (1997) with a forget gate; gates in the order i, f, g, o, as torch's. f starts open."""

    gates = 4

    def init(self, rng: np.random.Generator) -> Params:
        params = super().init(rng)
        params[f"{self.name}/bias"][self.hidden : 2 * self.hidden] = 1.0
        return params

    def chrono(self, rng: np.random.Generator, params: Params, steps: int) -> Params:
        i, f, g, o = params[f"{self.name}/bias"].chunk(4)
        kept = self._kept(rng, steps)
        return {f"{self.name}/bias": torch.cat([i - kept, kept, g, o])}

    def start(self, like: Tensor) -> Params:
        return {"h": self._zeros(like), "c": self._zeros(like)}

    def step(self, params: Params, seen: Tensor, state: Params) -> Params:
        i, f, g, o = (seen + state["h"] @ params[f"{self.name}/recurrent"].T).chunk(4, -1)
        c = torch.sigmoid(f) * state["c"] + torch.sigmoid(i) * torch.tanh(g)
        return {"h": torch.sigmoid(o) * torch.tanh(c), "c": c}


class GRU(Cell):
    """Cho et al. (arXiv 1406.1078); gates in the order r, z, n, as torch's, with its second bias inside n's reset."""

    gates = 3

    def init(self, rng: np.random.Generator) -> Params:
        return super().init(rng) | {f"{self.name}/reset_bias": torch.zeros(self.hidden, dtype=torch.float64)}

    def chrono(self, rng: np.random.Generator, params: Params, steps: int) -> Params:
        r, z, n = params[f"{self.name}/bias"].chunk(3)
        return {f"{self.name}/bias": torch.cat([r, z + self._kept(rng, steps), n])}

    def start(self, like: Tensor) -> Params:
        return {"h": self._zeros(like)}

    def step(self, params: Params, seen: Tensor, state: Params) -> Params:
        h = state["h"]
        seen_r, seen_z, seen_n = seen.chunk(3, -1)
        past_r, past_z, past_n = (h @ params[f"{self.name}/recurrent"].T).chunk(3, -1)
        r, z = torch.sigmoid(seen_r + past_r), torch.sigmoid(seen_z + past_z)
        n = torch.tanh(seen_n + r * (past_n + params[f"{self.name}/reset_bias"]))
        return {"h": (1 - z) * n + z * h}


CELLS: dict[CellName, type[Cell]] = {"lstm": LSTM, "gru": GRU}
