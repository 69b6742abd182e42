"""A small file of pairs: languages that are ciphers of one alphabet, for tests of sources that read such a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.core.failures import ConfigError
from pipeline.tasks import pairfile
from pipeline.tasks.ingest.captions import trained

LETTERS = "abcdefghijkl"
SPLITS = {"train": 8, "val": 3, "test": 3}
WORDS = 40
TAG = "<2en>"


def write(path: Path, queries: int = 0) -> Path:
    """``queries`` words of each validation and test language are its query rows; the last has a letter of its own."""
    rng = np.random.default_rng(0)
    languages, splits, number = [], {}, 0
    for split, count in SPLITS.items():
        splits[split] = list(range(number, number + count))
        for _ in range(count):
            pairs = _language(rng, "ж" if split == "test" and number == sum(SPLITS.values()) - 1 else "")
            own = queries if split != "train" else 0
            languages.append((f"l{number:02}", pairs[: WORDS - own], pairs[WORDS - own :]))
            number += 1
    try:
        pieces = trained(["".join(source[1:]) for _, pairs, _ in languages for source, _ in pairs], 300)
    except ConfigError:
        pieces = b""
    sets = dict.fromkeys(("sigmorphon2022_100", "sigmorphon2019", "six"), splits)
    pairfile.write(path, languages, sets, "small", joiner="", pieces=pieces)
    return path


def _language(rng, letter):
    cipher = dict(zip(LETTERS, rng.permutation(list(LETTERS)), strict=True)) | {"ж": "q"}
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(rng.choice(list(LETTERS + letter), rng.integers(4, 8)))] = None
    return [((TAG, *word), [str(cipher[one]) for one in word]) for word in words]
