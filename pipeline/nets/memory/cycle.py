"""The six steps of a memory: encode, retrieve, integrate, update, store, forget.

The first three compute an answer without changing the state; the last three compute the next state.

The steps are named after this project's source articles, of which one means something else: their *update* changes the
model's parameters, by a gradient step on what was retrieved and integrated. Here an update decides what of an example
is to be written, and where, and parameters change in the outer loop alone. The articles' form is no reader of a
sequence but a method of its own: MbPA (``algorithms/mbpa``) updates its output network by the neighbours that were
retrieved, and gradient memory (``algorithms/gradientmemory``) takes inner steps from what was retrieved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar, final

from torch import Tensor

from pipeline.core.types import Params

C = TypeVar("C")
F = TypeVar("F")
R = TypeVar("R")
S = TypeVar("S")


class Answered(NamedTuple, Generic[C, F]):
    """The result of a lookup: the code, what the memory holds for it, and both combined as ``answer`` [...]."""

    code: C
    found: F
    answer: Tensor


class Cycle(ABC, Generic[C, F, R, S]):
    """C: a code, by which the memory is addressed; F: what it finds; R: a record to write; S: the state, a value."""

    @abstractmethod
    def encode(self, params: Params, x: Tensor, state: S) -> C:
        """The code of ``x``, by which the memory is addressed."""

    @abstractmethod
    def retrieve(self, params: Params, code: C, state: S) -> F:
        """What the memory holds for a code."""

    @abstractmethod
    def integrate(self, params: Params, code: C, found: F) -> Tensor:
        """Combine the code and what was found into an answer."""

    @abstractmethod
    def update(self, params: Params, seen: Answered[C, F], state: S) -> R:
        """The record to write: what and where; never a change of ``params``."""

    @abstractmethod
    def store(self, params: Params, seen: Answered[C, F], record: R, state: S) -> S:
        """The state after the record was written."""

    @abstractmethod
    def forget(self, params: Params, state: S) -> S:
        """The state after one step of forgetting, with the slot that is evicted next."""

    @final
    def look(self, params: Params, x: Tensor, state: S) -> Answered[C, F]:
        """The answer to ``x``; nothing is written."""
        code = self.encode(params, x, state)
        found = self.retrieve(params, code, state)
        return Answered(code, found, self.integrate(params, code, found))

    @final
    def turn(self, params: Params, x: Tensor, state: S) -> tuple[Tensor, S]:
        """The answer to ``x``, and the state after it."""
        seen = self.look(params, x, state)
        record = self.update(params, seen, state)
        state = self.store(params, seen, record, state)
        return seen.answer, self.forget(params, state)
