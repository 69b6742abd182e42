"""Tokens for the symbols of a language, with anonymous slots for symbols that training never showed.

A vocabulary has ``PADDING``, ``END`` and ``UNKNOWN``, then the slots, then the known symbols. A task gives the unknown
symbols of its support set a slot each, as an N-way task gives its classes numbers, so that a new script can be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.core.types import END, PADDING, UNKNOWN

FIRST = UNKNOWN + 1
"""The token of the first slot."""
Ids = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by their ids, and which of them have a token of their own.

    Attributes:
        symbols: The symbols; the position is the id.
        known: Ids of those that have a token of their own, in order.
        slots: How many anonymous slots there are.
    """

    symbols: tuple[str, ...]
    known: Ids
    slots: int

    @classmethod
    def of(cls, symbols: Sequence[str], rows: Iterable[Ids], fewest: int, slots: int) -> Vocabulary:
        """Symbols that occur at least ``fewest`` times in ``rows`` are known."""
        counts = np.zeros(len(symbols), np.int64)
        for row in rows:
            counts += np.bincount(row, minlength=len(symbols))
        return cls(tuple(symbols), np.flatnonzero(counts >= fewest), slots)

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return FIRST + self.slots + len(self.known)

    def with_symbols(self, symbols: Iterable[str]) -> Vocabulary:
        """The same tokens, and these symbols too, which have none of their own."""
        new = sorted(set(symbols) - set(self.symbols))
        return replace(self, symbols=(*self.symbols, *new))

    def ids(self, symbols: Iterable[str]) -> Ids:
        """The ids of symbols that are all in the vocabulary."""
        return np.array([self._places[symbol] for symbol in symbols], np.int64)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}

    def code(self, rng: np.random.Generator, shown: Sequence[Ids] = (), hidden: Mask | None = None) -> Code:
        """A task's code.

        Args:
            rng: draws which slot a symbol gets.
            shown: the symbols of the support set, sequence by sequence.
            hidden: [symbols], those whose own token this task does not use.
        """
        tokens = np.full(len(self.symbols), UNKNOWN, np.int64)
        tokens[self.known] = FIRST + self.slots + np.arange(len(self.known))
        if hidden is not None:
            tokens[hidden] = UNKNOWN
        seen = np.unique(np.concatenate([np.zeros(0, np.int64), *shown])).astype(np.int64)
        new = rng.permutation(seen[tokens[seen] == UNKNOWN])[: self.slots]
        tokens[new] = FIRST + rng.permutation(self.slots)[: len(new)]
        return Code(self, tokens)


@dataclass(frozen=True)
class Code:
    """A task's tokens: ``tokens`` [symbols] has the token of each symbol of the vocabulary."""

    vocabulary: Vocabulary
    tokens: Ids

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """The tokens of symbols; one that the vocabulary does not have is ``UNKNOWN``."""
        return [self._token_of.get(symbol, UNKNOWN) for symbol in symbols]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """The symbols before ``END``; a token that no symbol has in this task is �."""
        before_end = itertools.takewhile(lambda token: token not in (END, PADDING), tokens)
        return [self._symbol_of.get(token, "�") for token in before_end]

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return dict(zip(self.vocabulary.symbols, self.tokens.tolist(), strict=True))

    @cached_property
    def _symbol_of(self) -> dict[int, str]:
        return {token: symbol for symbol, token in self._token_of.items() if token != UNKNOWN}


Pairing = tuple[Vocabulary, Vocabulary]
"""The vocabularies of sources and of targets; one object twice where they share it."""
Side = Sequence[Ids]


def codes(
    rng: np.random.Generator,
    vocabularies: Pairing,
    support: tuple[Side, Side],
    hidden: tuple[Mask | None, Mask | None] = (None, None),
) -> tuple[Code, Code]:
    """The codes of a task's sources and targets; in a shared vocabulary a symbol has one slot for both."""
    sources, targets = vocabularies
    if sources is targets:
        both = sources.code(rng, [*support[0], *support[1]], hidden[0])
        return both, both
    return sources.code(rng, support[0], hidden[0]), targets.code(rng, support[1], hidden[1])
