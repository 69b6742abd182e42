"""What serves languages: texts in, texts out. It is saved with a run, which then needs no file of pairs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.core.failures import DataError
from pipeline.core.seeding import Ticket
from pipeline.tasks.tokens import padded_pairs, padded_sources
from pipeline.tasks.vocabulary import Pairing, Vocabulary, codes
from pipeline.tasks.writing import WRITINGS, Symbols, Writing


@dataclass(frozen=True)
class Texts:
    """The vocabularies of a source, and how its texts are written.

    Attributes:
        name: A name in ``WRITINGS``.
        vocabularies: Of sources and of targets; one object twice where they share it.
        lengths: S and T of a served pair.
        pieces: A sentencepiece model, or nothing.
    """

    name: str
    vocabularies: Pairing
    lengths: tuple[int, int]
    pieces: bytes = b""

    @cached_property
    def writing(self) -> Writing:
        """Raises ``ConfigError`` where the extra that it needs is not installed."""
        return WRITINGS[self.name](self.pieces)

    def language(self, sources: Sequence[str], targets: Sequence[str]) -> Language:
        """The language of these pairs. Raises ``DataError`` where a text has no symbols."""
        return Language(self.writing, self.vocabularies, sources, targets, self.lengths)

    def saved(self) -> dict[str, Any]:
        """As JSON has it. Symbols without a token of their own are left out."""
        sources, targets = self.vocabularies
        kept = [sources] if sources is targets else [sources, targets]
        return {
            "writing": self.name,
            "slots": sources.slots,
            "known": [[one.symbols[number] for number in one.known] for one in kept],
            "lengths": list(self.lengths),
            "pieces": base64.b64encode(self.pieces).decode(),
        }

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Texts:
        """What ``saved`` gave."""
        kept = [Vocabulary(tuple(known), np.arange(len(known)), saved["slots"]) for known in saved["known"]]
        source_length, target_length = saved["lengths"]
        pieces = base64.b64decode(saved["pieces"])
        return cls(saved["writing"], (kept[0], kept[-1]), (source_length, target_length), pieces)


class Language:
    """One language's code, and its ``support`` pairs as tokens.

    Args:
        writing: how its texts are split and joined.
        vocabularies: those of training; other symbols get slots, as in a task.
        sources: N texts.
        targets: N texts.
        lengths: S and T.

    Raises:
        DataError: a text has no symbols.
    """

    def __init__(
        self,
        writing: Writing,
        vocabularies: Pairing,
        sources: Sequence[str],
        targets: Sequence[str],
        lengths: tuple[int, int],
    ) -> None:
        self._writing, self._length = writing, lengths[0]
        rows = [_split(sources, writing.source, "support_x"), _split(targets, writing.target, "support_y")]
        seen = [[symbol for row in side for symbol in row] for side in rows]
        if vocabularies[0] is vocabularies[1]:
            both = vocabularies[0].with_symbols([*seen[0], *seen[1]])
            vocabularies = (both, both)
        else:
            vocabularies = (vocabularies[0].with_symbols(seen[0]), vocabularies[1].with_symbols(seen[1]))
        ids = [[one.ids(row) for row in side] for one, side in zip(vocabularies, rows, strict=True)]
        self._codes = codes(Ticket(0, "serve", "test", 0, 0).rng("task"), vocabularies, (ids[0], ids[1]))
        tokens = [[code.tokens[row] for row in side] for code, side in zip(self._codes, ids, strict=True)]
        self.support = padded_pairs(tokens[0], tokens[1], len(tokens[0]), lengths)

    def inputs(self, sources: Sequence[str]) -> Tensor:
        """Sources as tokens [N, S]. Raises ``DataError`` where one has no symbols."""
        rows = [self._codes[0].encode(row) for row in _split(sources, self._writing.source, "x")]
        return padded_sources(rows, len(rows), self._length)

    def answers(self, tokens: Tensor) -> list[str]:
        """The texts of answers [N, T]."""
        return [self._writing.join(self._codes[1].decode(row)) for row in tokens.tolist()]


def _split(texts: Sequence[str], split: Callable[[str], Symbols], name: str) -> list[Symbols]:
    rows = [split(text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise DataError(f"{name}: {text!r} has no symbols; leave it out")
    return rows
