"""Grapheme to phoneme: words and their transcriptions, each language a task.

Data and measure are those of the SIGMORPHON shared tasks: the word error rate, macro-averaged over languages (Ashby et
al. 2021, 2021.sigmorphon-1.13).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShapes
from pipeline.core.types import FilePath
from pipeline.tasks.languages import Drawn
from pipeline.tasks.transduction import Anonymity, Share, Sides, Slots, Transduction, TransductionConfig
from pipeline.tasks.writing import Symbols


@dataclass(frozen=True)
class G2PConfig(TransductionConfig):
    """Words of many languages.

    Attributes:
        slots: Anonymous tokens of each vocabulary, for symbols that training never shows.
        anonymous_sources: The share of training tasks in which every character of the words is anonymous, as it is in
            a script that training never shows.
        anonymous_targets: The share of the phones that are anonymous in a training task.
        test_words: A folder of ``LANGUAGE_test.tsv`` files, whose words take the place of the test languages' queries.
    """

    split: str = "sigmorphon2022_100"
    slots: Slots = 96
    anonymous_sources: Share = 0.3
    anonymous_targets: Share = 0.05
    test_words: Annotated[str, FilePath()] = ""


class G2P(Transduction):
    """A source is a word's code points in NFD; a target is a transcription's phones, which blanks separate."""

    Config: ClassVar[type[G2PConfig]] = G2PConfig
    loss = "transcription"
    joint = False
    writing = "words"

    def __init__(self, config: G2PConfig, shapes: TaskShapes) -> None:
        super().__init__(config, shapes, Anonymity(config.slots, config.anonymous_sources, config.anonymous_targets))
        self._tests: dict[int, tuple[list[Symbols], list[Symbols]]] = {}
        if config.test_words:
            self._read_tests(Path(config.test_words))
        self.evaluation = {"test_words": self._hash} if config.test_words else {}

    def queries(self, drawn: Drawn, ticket: Ticket) -> Sides:
        if drawn.language not in self._tests:
            return super().queries(drawn, ticket)
        sources, targets = self._tests[drawn.language]
        most = self._shapes.eval.queries
        if len(sources) > most:
            raise ConfigError(
                f"task.eval.queries: {most}, but source.test_words has {len(sources)} words of "
                f"{self._languages.file.languages[drawn.language].name}; set it to {len(sources)} or more"
            )
        one, other = self.vocabularies
        return [one.ids(row) for row in sources], [other.ids(row) for row in targets]

    def _read_tests(self, folder: Path) -> None:
        """Put the folder's words in the place of the test languages' queries; widen the vocabularies by their symbols,
        which have no token of their own."""
        known, (split_source, split_target, _) = hashlib.sha256(), self.texts.writing
        for language in self._languages.of("test"):
            code = re.sub(r"_(20\d\d|\d+)$", "", self._languages.file.languages[language].name)
            lines = _lines(folder / f"{code}_test.tsv")
            known.update(repr(lines).encode())
            self._tests[language] = ([split_source(word) for word, _ in lines], [split_target(to) for _, to in lines])
        self._hash = known.hexdigest()[:16]
        one, other = self.vocabularies
        self.vocabularies = (
            one.with_symbols(symbol for sources, _ in self._tests.values() for row in sources for symbol in row),
            other.with_symbols(symbol for _, targets in self._tests.values() for row in targets for symbol in row),
        )


def _lines(path: Path) -> list[tuple[str, str]]:
    """Words and transcriptions of a TSV file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"source.test_words: {path} cannot be read ({getattr(error, 'strerror', None) or error}); expected a file "
            "LANGUAGE_test.tsv in UTF-8 for each test language, with a word, a tab and its phones on each line"
        ) from None
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    wrong = [number for number, row in enumerate(rows, 1) if len(row) != 2 or not row[1].split()]
    if wrong or not rows:
        where = f"line {wrong[0]}" if wrong else "it is empty"
        raise DataError(f"source.test_words: {path}: {where}; expected a word, a tab and its phones on each line")
    return [(word, phones) for word, phones in rows]
