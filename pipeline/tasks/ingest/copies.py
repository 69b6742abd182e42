"""Finds ingested pictures that are equal in every pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core.failures import DataError
from pipeline.tasks.classfile import Pixels, SplitSet


class Copies:
    """Remembers each class's pictures by a hash of their pixels."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str]] = {}
        self._of_class: dict[str, set[bytes]] = {}
        self._within, self._across = list[str](), list[str]()

    def add(self, name: str, shown: str, pixels: Pixels) -> None:
        """Add a picture of the class ``name`` under its original path."""
        key = hashlib.sha256(pixels.tobytes()).digest()
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
        """Raise ``DataError`` where all pictures of a class lie in another split too."""
        for split_set in splits.values():
            of_split = {
                split: set[bytes]().union(*(self._of_class[names[index]] for index in indices))
                for split, indices in split_set.items()
            }
            for split, indices in split_set.items():
                for other, pictures in of_split.items():
                    copied = [names[i] for i in indices if other != split and self._of_class[names[i]] <= pictures]
                    if copied:
                        raise DataError(
                            f"{folder}: every image of the class {copied[0]!a} in {split} is in {other} too; remove one"
                            " of the copies: the splits of few-shot learning share no class"
                        )
