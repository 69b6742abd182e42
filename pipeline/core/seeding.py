"""Tickets: a task is a pure function of (seed, purpose, split, step, number), never of a worker's state.

Streams come from numpy's counter-based Philox generator. Its key is hashed by a ``SeedSequence`` from the seed,
purpose, split and step; its counter starts at the task's number and stream, 2^128 draws apart. So any worker at any
time draws the same numbers for the same ticket, and a step's many streams cost one hash.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.failures import InternalError

Purpose = Literal["train", "evaluate", "serve", "init"]
Split = Literal["train", "val", "test"]
Stream = Literal["task", "noise", "step"]

# The codes decide what a seed means: changing one changes every run. Append only.
_PURPOSES: dict[Purpose, int] = {"train": 0, "evaluate": 1, "serve": 2, "init": 3}
_SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
_STREAMS: dict[Stream, int] = {"task": 0, "noise": 1, "step": 2}


BYTES_A_PARAMETER = 32
"""How many vectors of theta's size a run needs: the draw, theta, its gradient, the optimizer's and a worker's copy."""


class Ticket(NamedTuple):
    """Determines one task. Workers receive seeds, not data."""

    seed: int
    purpose: Purpose
    split: Split
    step: int
    number: int

    def rng(self, stream: Stream) -> np.random.Generator:
        """A fresh generator for this ticket.

        ``task`` feeds the source and ``noise`` the algorithm; ``step`` is the same for all tasks of a step.
        """
        key, number = _key(self.seed, _PURPOSES[self.purpose], _SPLITS[self.split], self.step), self.number
        counter = [0, 0, 0 if stream == "step" else number, _STREAMS[stream]]
        return np.random.Generator(np.random.Philox(counter=counter, key=key))

    @property
    def id(self) -> str:
        """A name for logs, for example ``train/train/12/3``."""
        return f"{self.purpose}/{self.split}/{self.step}/{self.number}"


def rngs(tickets: Sequence[Ticket], stream: Stream) -> Iterator[np.random.Generator]:
    """The generators of tickets of one step, one after the other: each is good until the next one is taken.

    They draw what ``Ticket.rng`` draws. One generator is set to each ticket's counter, which takes a tenth of the time
    that a fresh one takes.
    """
    first = tickets[0]
    rng = first.rng(stream)
    state: Any = rng.bit_generator.state
    for ticket in tickets:
        if ticket[:4] != first[:4]:
            raise InternalError(f"{ticket.id} and {first.id} are not of one step")
        state["state"]["counter"][2] = 0 if stream == "step" else ticket.number
        rng.bit_generator.state = state
        yield rng


@lru_cache(maxsize=8)
def _key(seed: int, purpose: int, split: int, step: int) -> NDArray[np.unsignedinteger[Any]]:
    return np.random.SeedSequence(seed, spawn_key=(purpose, split, step)).generate_state(2, np.uint64)


class _WithinMemory(np.random.Generator):
    """Refuses to draw a theta that does not fit into memory, where Linux would kill the process silently."""

    drawn = 0

    def normal(self, *args: Any, **kwargs: Any) -> Any:
        self._count(args[2] if len(args) > 2 else kwargs.get("size"))
        return super().normal(*args, **kwargs)

    def uniform(self, *args: Any, **kwargs: Any) -> Any:
        self._count(args[2] if len(args) > 2 else kwargs.get("size"))
        return super().uniform(*args, **kwargs)

    def _count(self, size: int | tuple[int, ...] | None) -> None:
        self.drawn += math.prod((size,) if isinstance(size, int) else size or ())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.drawn * BYTES_A_PARAMETER > memory:
            raise MemoryError(f"{self.drawn:,} numbers, of which {memory / 1e9:.0f} GB of memory can hold no training")


def init_rng(seed: int) -> np.random.Generator:
    """The generator that draws the first theta of a run. Raises ``MemoryError`` where it is too large to train."""
    return _WithinMemory(Ticket(seed, "init", "train", 0, 0).rng("noise").bit_generator)
