"""Draws pairs of sequences from the languages of a file of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import TaskShape
from pipeline.tasks import pairfile
from pipeline.tasks.watched import WatchedFile

Rows = npt.NDArray[np.int64]
Ids = npt.NDArray[np.integer]


class Drawn(NamedTuple):
    """A task's language, and the rows of its support and of its query set."""

    language: int
    support: Rows
    query: Rows


class Languages:
    """The languages of one split set.

    A training task is of a random language, and its pairs are drawn without replacement. Evaluation task n is of
    language n. A language with query rows of its own gives its first ``shots`` support and first ``queries`` query
    rows, fewer where it has fewer: these are the published tasks. Another draws them.

    Args:
        path: a file of pairs.
        split_set: the name of one of its split sets.
        longest: the most symbols of a source and of a target in training; longer pairs are not drawn there.

    Raises:
        DataError: the file is missing, damaged or has no such split set.
    """

    def __init__(self, path: Path, split_set: str, longest: tuple[int, int]) -> None:
        if not path.is_file():
            raise DataError(
                f"source.path: {path} does not exist; make it with `python -m jobs.ingest g2p --from FOLDER --to "
                f"{path}` (or inflection, or captions)"
            )
        self._watched = WatchedFile(path, pairfile.read)
        self.file = self._watched.file
        if split_set not in self.file.splits:
            valid = ", ".join(sorted(self.file.splits))
            raise DataError(f"source.split: {split_set!r} is not a split set of {path}; it has {valid}")
        chosen = self.file.splits[split_set]
        self._path, self._split_set, self._longest = path, split_set, longest
        self._languages = {split: sorted(chosen[split]) for split in get_args(Split) if split in chosen}
        self._rows: dict[int, Rows] = {}
        self.splits: tuple[Split, ...] = tuple(self._languages)
        self.fingerprint = f"{self.file.content}/{split_set}"

    def contents(self, split: Split) -> frozenset[str]:
        """The checksum of the pairs of each language."""
        return frozenset(f"{self.file.checksums[one]:08x}" for one in self._languages.get(split, []))

    def of(self, split: Split) -> list[int]:
        """The indices of the languages of a split."""
        return self._languages.get(split, [])

    def task_names(self, split: Split) -> list[str]:
        """The names of the languages of a split."""
        return [self.file.languages[one].name for one in self.of(split)]

    def train_symbols(self) -> tuple[Sequence[Ids], Sequence[Ids]]:
        """The symbols of the sources and of the targets of each training language, one after the other.

        Raises:
            DataError: a training language is damaged.
        """
        self._watched.require_whole(self._languages["train"], 0)
        rows = [self.file.languages[one].support for one in self._languages["train"]]
        sources, targets = ([side.values[side.offsets[a] : side.offsets[b]] for a, b in rows] for side in self._sides)
        return sources, targets

    def require(self, shape: TaskShape) -> None:
        """Raise ``DataError`` where a training language has fewer pairs than a training task."""
        wanted = shape.shots + shape.queries
        sizes = {self.file.languages[one].name: len(self._of(one)) for one in self._languages["train"]}
        few = [f"{name} ({size})" for name, size in sizes.items() if size < wanted]
        if few:
            raise DataError(
                f"task.train: {shape.shots} shots + {shape.queries} queries need {wanted} pairs, and {len(few)} "
                f"languages of {self._path} have fewer: {', '.join(few[:3])}; ask for at most {min(sizes.values())}, "
                "or raise source.train_lengths"
            )

    def draw(self, rng: np.random.Generator, ticket: Ticket, shape: TaskShape) -> Drawn:
        """The task of a ticket. Raises ``DataError`` where the split has no such task."""
        if ticket.split not in self._languages:
            raise DataError(
                f"{self._path}: the split set {self._split_set!r} has no split {ticket.split}; it has "
                f"{', '.join(self.splits)}"
            )
        languages, wanted = self._languages[ticket.split], shape.shots + shape.queries
        if ticket.purpose == "train":
            language = languages[rng.integers(len(languages))]
            self._watched.require_whole([language], wanted)
            rows = self._of(language)
            drawn = rows[rng.permutation(len(rows))[:wanted]]
            return Drawn(language, drawn[: shape.shots], drawn[shape.shots :])
        language = languages[ticket.number % len(languages)]
        self._watched.require_whole([language], wanted)
        _, support, query = self.file.languages[language]
        if query[0] == query[1]:
            drawn = support[0] + rng.permutation(support[1] - support[0])[:wanted]
            return Drawn(language, drawn[: shape.shots], drawn[shape.shots :])
        if ticket.number >= len(languages):
            raise ConfigError(
                f"evaluation.tasks: the split {ticket.split} of {self._split_set} has {len(languages)} languages with "
                f"one task each; set it to {len(languages)}"
            )
        return Drawn(language, np.arange(*support)[: shape.shots], np.arange(*query)[: shape.queries])

    def _of(self, language: int) -> Rows:
        """The rows of a language that are short enough to be trained on."""
        if language not in self._rows:
            rows = np.arange(*self.file.languages[language].support)
            short = [np.diff(part.offsets)[rows] <= most for part, most in zip(self._sides, self._longest, strict=True)]
            self._rows[language] = rows[short[0] & short[1]]
        return self._rows[language]

    @property
    def _sides(self) -> tuple[pairfile.Ragged, pairfile.Ragged]:
        return self.file.source, self.file.target
