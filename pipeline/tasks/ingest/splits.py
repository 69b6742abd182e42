"""Which classes of one's own data are for training, validation and test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, get_args

import numpy as np

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split
from pipeline.tasks.classfile import SplitSet
from pipeline.tasks.ingest.wording import some_of

SPELLINGS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHARES = (0.64, 0.16, 0.20)
"""The shares of classes where a person says nothing: those of miniImageNet."""


class Shares(Protocol):
    """``split`` are the shares of train, val and test classes, drawn by ``seed``; None where nothing is said."""

    @property
    def split(self) -> tuple[float, ...] | None: ...

    @property
    def seed(self) -> int: ...


def check_shares(options: Shares) -> None:
    """Raise ``ConfigError`` where the shares are none, or the seed is out of range."""
    if not 0 <= options.seed < 1 << 32:
        raise ConfigError(f"--seed: {options.seed}; expected 0 to {(1 << 32) - 1}")
    shares = options.split
    if shares is None:
        return
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        written = ",".join(map(str, shares))
        raise ConfigError(
            f"--split: {written}; expected three shares that add up to 1, such as 0.64,0.16,0.20, or 0,0,1 for classes "
            "that are only evaluated on"
        )


def chosen(
    place: Path, names: list[str], given: Mapping[Split, Sequence[str]] | None, options: Shares, called: str = "folder"
) -> dict[str, SplitSet]:
    """The split set ``random``, or the one that the data give, under the name ``called``.

    Raises:
        ConfigError: shares beside a split that is given, or shares that leave a split without a class.
        DataError: a given split has no class.
    """
    if given is None:
        return {"random": _random(names, options)}
    if options.split:
        raise ConfigError(f"--split: {place} is already split into {', '.join(given)}; leave the option out")
    index = {name: number for number, name in enumerate(names)}
    split_set = {split: [index[name] for name in members if name in index] for split, members in given.items()}
    bare = [split for split, indices in split_set.items() if not indices]
    if bare:
        raise DataError(f"{place}: {some_of(len(bare), 'split', bare)} without a class; fill or remove the folders")
    return {called: split_set}


def refuse_in_two(place: Path, twice: Sequence[str]) -> None:
    """Raise ``DataError`` where there are classes in two splits, each as ``NAME in SPLIT and SPLIT``."""
    if twice:
        some = some_of(len(twice), "class", twice)
        raise DataError(f"{place}: {some} in two splits; the splits of few-shot learning share no class")


def _random(names: list[str], options: Shares) -> SplitSet:
    """Split the classes by shares, with numpy's legacy generator, whose permutation never changes."""
    shares = dict(zip(get_args(Split), options.split or SHARES, strict=True))
    order = np.random.RandomState(options.seed).permutation(len(names))
    ends = np.rint(np.cumsum(list(shares.values()))[:2] * len(names)).astype(int)
    parts = dict(zip(shares, np.split(order, ends), strict=True))
    bare = [split for split, share in shares.items() if share and not len(parts[split])]
    if bare:
        raise ConfigError(
            f"--split: {', '.join(f'{share:g}' for share in shares.values())} of {len(names)} classes leaves"
            f" {' and '.join(bare)} empty; give it a larger share, or 0"
        )
    return {split: sorted(part.tolist()) for split, part in parts.items() if len(part)}
