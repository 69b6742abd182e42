"""Finds ingested pictures, or rows of a table, that are equal in every number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pipeline.core.failures import DataError
from pipeline.tasks.arrowfile import SplitSet


class Copies:
    """Remembers each class's examples by a hash of their numbers. ``what`` is what an error calls an example."""

    def __init__(self, what: str = "image") -> None:
        self._what = what
        self._first: dict[bytes, tuple[str, str]] = {}
        self._of_class: dict[str, set[bytes]] = {}
        self._within, self._across = list[str](), list[str]()

    def add(self, name: str, shown: str, numbers: npt.NDArray[Any]) -> None:
        """Add an example of the class ``name`` under its original path or row."""
        key = hashlib.sha256(numbers.tobytes()).digest()
        first_class, first = self._first.setdefault(key, (name, shown))
        if first != shown:
            (self._within if first_class == name else self._across).append(f"{shown} = {first}")
        self._of_class.setdefault(name, set()).add(key)

    def notes(self) -> list[str]:
        """One line for copies within classes, and one for copies across them."""
        lines = (("within a class", self._within), ("across classes", self._across))
        return [
            f"duplicates {where}: {len(found)} ({'; '.join(found[:3])}{'; …' if len(found) > 3 else ''})"
            for where, found in lines
            if found
        ]

    def refuse_in_two_splits(self, folder: Path, names: Sequence[str], splits: Mapping[str, SplitSet]) -> None:
        """Raise ``DataError`` where all examples of a class lie in another split too."""
        for split_set in splits.values():
            of_split = {
                split: set[bytes]().union(*(self._of_class[names[index]] for index in indices))
                for split, indices in split_set.items()
            }
            for split, indices in split_set.items():
                for other, examples in of_split.items():
                    copied = [names[i] for i in indices if other != split and self._of_class[names[i]] <= examples]
                    if copied:
                        raise DataError(
                            f"{folder}: every {self._what} of the class {copied[0]!a} in {split} is in {other} too; "
                            "remove one of the copies: the splits of few-shot learning share no class"
                        )
