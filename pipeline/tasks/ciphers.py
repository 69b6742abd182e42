"""Languages that are ciphers: each task replaces letters by others, and perhaps reverses the word.

A new cipher is learned from pairs of words and nothing else, so the best exact match is 1. It needs no file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import Spec, TaskShapes, Tokens
from pipeline.core.types import UNKNOWN, Pairs, Task
from pipeline.tasks.tokens import padded_pairs, require_languages

FIRST = UNKNOWN + 1
"""The token of the first letter."""
Length = Annotated[int, Ge(1), Le(256)]


@dataclass(frozen=True)
class CiphersConfig:
    """How hard the languages are.

    Attributes:
        letters: Letters of the alphabet, which all languages share.
        lengths: The shortest and the longest word.
        reversal: Whether half of the languages write their words backwards.
    """

    letters: Annotated[int, Ge(2), Le(1 << 12)] = 20
    lengths: tuple[Length, Length] = (3, 8)
    reversal: bool = True


class Ciphers:
    """``Pairs`` of random words and their ciphers. Every split has the same distribution.

    Raises:
        ConfigError: more than one way, no shots, or lengths in the wrong order.
    """

    Config: ClassVar[type[CiphersConfig]] = CiphersConfig
    splits: tuple[Split, ...] = ("train", "val", "test")

    def __init__(self, config: CiphersConfig, shapes: TaskShapes) -> None:
        require_languages(shapes)
        shortest, self._longest = config.lengths
        if shortest > self._longest:
            raise ConfigError(f"source.lengths: {list(config.lengths)}, expected the shorter one first")
        self._config, self._shapes = config, shapes
        self.fingerprint = hashlib.sha256(repr(config).encode()).hexdigest()[:16]

    def spec(self) -> Spec:
        tokens = FIRST + self._config.letters
        length = self._longest + 1
        return Spec(Pairs, (self._longest,), tokens, "tokens", "tokens", True, Tokens(tokens, length))

    def sample(self, ticket: Ticket) -> Task[Pairs]:
        rng, shape, config = ticket.rng("task"), self._shapes.of(ticket), self._config
        cipher = FIRST + rng.permutation(config.letters)
        step = -1 if config.reversal and rng.integers(2) else 1

        def pairs(count: int) -> Pairs:
            lengths = rng.integers(config.lengths[0], self._longest + 1, count)
            words = [rng.integers(0, config.letters, length) for length in lengths]
            return padded_pairs(
                [FIRST + word for word in words],
                [cipher[word[::step]] for word in words],
                count,
                (self._longest, self._longest + 1),
            )

        return Task(ticket.id, pairs(shape.shots), pairs(shape.queries))
