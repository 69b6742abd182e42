"""Which classes of a folder of images are for training, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split
from pipeline.tasks.classfile import SplitSet
from pipeline.tasks.ingest.options import Options
from pipeline.tasks.ingest.wording import some_of


def chosen(
    folder: Path, names: list[str], by_folder: dict[Split, list[str]] | None, options: Options
) -> dict[str, SplitSet]:
    if by_folder is None:
        return {"random": _random(names, options)}
    if options.split:
        raise ConfigError(f"--split: {folder} is already split into {', '.join(by_folder)}; leave the option out")
    index = {name: number for number, name in enumerate(names)}
    split_set = {split: [index[name] for name in members if name in index] for split, members in by_folder.items()}
    bare = [split for split, indices in split_set.items() if not indices]
    if bare:
        raise DataError(f"{folder}: {some_of(len(bare), 'split', bare)} without a class; fill or remove the folders")
    return {"folder": split_set}


def _random(names: list[str], options: Options) -> SplitSet:
    """Split the classes by shares, with numpy's legacy generator, whose permutation never changes."""
    shares = dict(zip(get_args(Split), options.split or (0.64, 0.16, 0.20), strict=True))
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
