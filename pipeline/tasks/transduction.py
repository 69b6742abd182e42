"""Tasks of pairs of sequences, one language each; ``g2p``, ``inflection`` and ``captions`` say what its symbols are.

Shapes: N pairs, S and T tokens of source and target.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from pipeline.core.bounds import Count
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, Tokens
from pipeline.core.types import FilePath, Pairs, Task
from pipeline.tasks.languages import Drawn, Languages
from pipeline.tasks.texts import Texts
from pipeline.tasks.tokens import padded_pairs, require_languages
from pipeline.tasks.vocabulary import Ids, Mask, Vocabulary, codes

Length = Annotated[int, Ge(2), Le(1024)]
Slots = Annotated[int, Ge(0), Le(4096)]
Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class TransductionConfig:
    """An ingested file of pairs, and the lengths to which its sequences are padded.

    Attributes:
        path: The file that jobs.ingest wrote.
        split: The name of one of its split sets.
        lengths: Tokens of a source and of a target at evaluation and in serving, the target's end included. Longer
            sources are cut, and no answer is equal to a longer target.
        train_lengths: The same in training, where longer pairs are not drawn.
        fewest: How often a symbol must occur in the training languages to have a token of its own.
    """

    path: Annotated[str, FilePath()]
    split: str
    lengths: tuple[Length, Length] = (24, 24)
    train_lengths: tuple[Length, Length] = (14, 15)
    fewest: Count = 10


class Anonymity(NamedTuple):
    """How training prepares for symbols that it never shows.

    Args:
        slots: anonymous tokens of each vocabulary.
        sources: the share of training tasks in which every character of the sources is anonymous.
        targets: the share of the symbols of targets that are anonymous in a training task.
    """

    slots: int = 0
    sources: float = 0.0
    targets: float = 0.0


Sides = tuple[list[Ids], list[Ids]]


class Transduction:
    """``Pairs`` of one language. The vocabularies are made of the split ``train`` alone.

    Raises:
        DataError: the file is missing, damaged or has no such split set; a training language has too few pairs.
        ConfigError: more than one way, or no shots.
    """

    Config: ClassVar[type[Any]]
    loss: ClassVar[str]
    """A name in ``LOSSES``."""
    joint: ClassVar[bool]
    """Whether sources and targets share one vocabulary, and a symbol its slot."""
    writing: ClassVar[str]
    """A name in ``WRITINGS``."""

    def __init__(self, config: Any, shapes: TaskShapes, anonymity: Anonymity) -> None:
        require_languages(shapes)
        longest = (config.train_lengths[0], config.train_lengths[1] - 1)
        self._languages = Languages(Path(config.path), config.split, longest)
        self._languages.require(shapes.train)
        self._config, self._shapes, self._anonymity = config, shapes, anonymity
        file = self._languages.file
        symbols = (file.sources, file.targets)
        if self.joint:
            both = tuple(sorted({*file.sources, *file.targets}))
            place = {symbol: number for number, symbol in enumerate(both)}
            self._places = [np.array([place[one] for one in side], np.int64) for side in symbols]
            symbols = (both, both)
        else:
            self._places = [np.arange(len(side)) for side in symbols]
        self.vocabularies = self._vocabularies(symbols)
        self.splits: tuple[Split, ...] = self._languages.splits
        self.fingerprint = self._languages.fingerprint

    @property
    def texts(self) -> Texts:
        """What serves this source's languages."""
        return Texts(self.writing, self.vocabularies, self._config.lengths, self._languages.file.pieces)

    def spec(self) -> Spec:
        sources, targets = (one.size for one in self.vocabularies)
        length, target_length = self._config.lengths
        tokens = Tokens(sources, target_length)
        return Spec(Pairs, (length,), targets, "tokens", self.loss, integers=True, tokens=tokens)

    def contents(self, split: Split) -> frozenset[str]:
        return self._languages.contents(split)

    def task_names(self, split: Split) -> list[str]:
        return self._languages.task_names(split)

    def sample(self, ticket: Ticket) -> Task[Pairs]:
        rng, shape, training = ticket.rng("task"), self._shapes.of(ticket), ticket.purpose == "train"
        drawn = self._languages.draw(rng, ticket, shape)
        support, query = self._pairs(drawn.support), self.queries(drawn, ticket)
        coded = codes(rng, self.vocabularies, support, self._hidden(rng) if training else (None, None))
        lengths = self._config.train_lengths if training else self._config.lengths

        def padded(sides: Sides, rows: int) -> Pairs:
            sources, targets = ([code.tokens[row] for row in side] for code, side in zip(coded, sides, strict=True))
            return padded_pairs(sources, targets, rows, lengths)

        return Task(ticket.id, padded(support, shape.shots), padded(query, shape.queries))

    def queries(self, drawn: Drawn, ticket: Ticket) -> Sides:
        """The query pairs of a task, as ids of the vocabularies' symbols."""
        return self._pairs(drawn.query)

    def _pairs(self, rows: Ids) -> Sides:
        file = self._languages.file
        sources: list[Ids] = [self._places[0][file.source[row]] for row in rows]
        return sources, [self._places[1][file.target[row]] for row in rows]

    def _vocabularies(self, symbols: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[Vocabulary, Vocabulary]:
        fewest, slots = self._config.fewest, self._anonymity.slots
        both_sides = zip(self._places, self._languages.train_symbols(), strict=True)
        sources, targets = ([place[symbols] for symbols in side] for place, side in both_sides)
        if self.joint:
            both = Vocabulary.of(symbols[0], [*sources, *targets], fewest, slots)
            return both, both
        return Vocabulary.of(symbols[0], sources, fewest, slots), Vocabulary.of(symbols[1], targets, fewest, slots)

    @cached_property
    def _characters(self) -> Mask:
        """Of the symbols of sources, those of one character: others are features or tags, which all languages share."""
        return np.array([len(symbol) == 1 for symbol in self.vocabularies[0].symbols], bool)

    def _hidden(self, rng: np.random.Generator) -> tuple[Mask | None, Mask | None]:
        """The symbols of sources and of targets that are anonymous in a training task."""
        if not self._anonymity.slots:
            return None, None
        whole = self._characters & (rng.random() < self._anonymity.sources)
        some = rng.random(len(self.vocabularies[1].symbols)) < self._anonymity.targets
        return (whole | (some & self._characters), None) if self.joint else (whole, some)
