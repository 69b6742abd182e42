"""A memory cycle as a sequence model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, TypeVar, final

import numpy as np
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.memory.cycle import C, Cycle, S


class Weighted(Protocol):
    """What was found, or what is written: by which weights over slots, [heads, slots]."""

    @property
    def weights(self) -> Tensor: ...


F = TypeVar("F", bound=Weighted)
R = TypeVar("R", bound=Weighted)


class MemoryReader(Cycle[C, F, R, S]):
    """The first ``width`` numbers of a cycle's answer are the output; the others are kept for its next state."""

    width: int

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Fresh leaves."""

    @abstractmethod
    def start(self, params: Params) -> S:
        """The state before the first input."""

    @abstractmethod
    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        """Of each input what does not depend on the state, [T, …]."""

    @final
    def weights(self, params: Params, seen: Tensor, state: S) -> tuple[Tensor, Tensor]:
        """Where an input is read and where it is written, [heads, slots] each."""
        looked = self.look(params, seen, state)
        return looked.found.weights, self.update(params, looked, state).weights

    @final
    def answer(self, params: Params, seen: Tensor, state: S) -> Tensor:
        return self.look(params, seen, state).answer[: self.width]

    @final
    def read(self, params: Params, seen: Tensor, state: S) -> tuple[Tensor, S]:
        answer, after = self.turn(params, seen, state)
        return answer[: self.width], after
