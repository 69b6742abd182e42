"""The six steps in which a memory works: encode, retrieve, integrate, update, store, forget.

The first three answer and change nothing; the last three make the next state of what was seen.

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
    """What looking something up gave: its code, what the memory had of it, and the two as one ``answer`` [...]."""

    code: C
    found: F
    answer: Tensor


class Cycle(ABC, Generic[C, F, R, S]):
    """C: a code (what the memory is asked by); F: what it finds; R: what is to be written; S: its state, a value."""

    @abstractmethod
    def encode(self, params: Params, x: Tensor, state: S) -> C:
        """What the memory is asked by for ``x``."""

    @abstractmethod
    def retrieve(self, params: Params, code: C, state: S) -> F:
        """What the memory has of it."""

    @abstractmethod
    def integrate(self, params: Params, code: C, found: F) -> Tensor:
        """The code and what was found, as one answer."""

    @abstractmethod
    def update(self, params: Params, seen: Answered[C, F], state: S) -> R:
        """What of it is to be written, and where; never a change of ``params``."""

    @abstractmethod
    def store(self, params: Params, seen: Answered[C, F], record: R, state: S) -> S:
        """The state after the record was written."""

    @abstractmethod
    def forget(self, params: Params, state: S) -> S:
        """The state after time has passed over it, with the slot named that gives way next."""

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
