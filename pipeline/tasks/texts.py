"""A language that is served: texts in, texts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from pipeline.core.failures import DataError
from pipeline.core.seeding import Ticket
from pipeline.tasks.tokens import padded_pairs, padded_sources
from pipeline.tasks.vocabulary import Pairing, codes

Symbols = Sequence[str]


class Writing(NamedTuple):
    """How texts become symbols and symbols a text.

    Args:
        source: the symbols of a source.
        target: the symbols of a target.
        join: the text of a target's symbols.
    """

    source: Callable[[str], Symbols]
    target: Callable[[str], Symbols]
    join: Callable[[Symbols], str]


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
