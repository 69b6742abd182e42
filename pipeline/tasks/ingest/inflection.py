"""Inflection: lemma and features to form, from the zip of SIGMORPHON 2019's task 1 to one file of pairs.

The task (McCarthy et al.: arXiv 1910.11493) has 44 rich languages with up to 10,000 forms to train on, and 44 poor ones
with up to 100. Nine languages are both.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path

from pipeline.tasks import pairfile
from pipeline.tasks.ingest.texts import Ingested, hash_of, numbered, read_known, rows, unpacked
from pipeline.tasks.pairfile import Pair

ARCHIVE = "sigmorphon2019_task1.zip"
ARCHIVES = {ARCHIVE: "25f3e13a11929df170e533e78adf4a8d4ab63b993fb32d60c09b7bcc6918d465"}
VALIDATION = ("armenian", "danish", "hungarian", "slovene")
"""Rich languages that are held out of training, whole, and fixed: three of different branches with related languages
left in training, as most poor languages have, and one with a script of its own, as four poor languages have."""

_RICH, _POOR, _TEST = "-train-high", "-train-low", "-test"


def ingest(folder: Path, to: Path) -> Ingested:
    """Write the pairs of the zip in ``folder`` to ``to``, with the split set ``sigmorphon2019``.

    A source is the lemma's code points in NFC and then each feature as one symbol such as ``<V>``, which no code point
    can be; a target is the form's code points in NFC. A rich language that is poor too is left out: its 100 support
    pairs are among the 10,000, and so are most lemmas of its test. A language of training or validation has no query
    rows: each of its tasks draws both sets from all its forms.

    Raises:
        DataError: the zip is missing or another one, or ``to`` cannot be written.
    """
    archives = read_known(folder, ARCHIVES)
    texts, notes = unpacked(archives[ARCHIVE]), list[str]()
    rich, poor = ([entry.removesuffix(end) for entry in texts if entry.endswith(end)] for end in (_RICH, _POOR))
    both = [name for name in rich if name in poor]
    if both:
        notes.append(f"left out of training, because they are test languages too: {', '.join(both)}")
    known = [name for name in rich if name not in both]
    languages = [
        *((name, _pairs(texts, name + _RICH, notes), list[Pair]()) for name in known),
        *((name, _pairs(texts, name + _POOR, notes), _pairs(texts, name + _TEST, notes)) for name in poor),
    ]
    train = [name for name in known if name not in VALIDATION]
    splits = numbered(languages, {"sigmorphon2019": {"train": train, "val": VALIDATION, "test": poor}})
    return Ingested(pairfile.write(to, languages, splits, hash_of(archives), joiner=""), notes)


def _pairs(texts: Mapping[str, str], entry: str, notes: list[str]) -> list[Pair]:
    found, lost = rows(texts[entry], columns=3)
    if lost:
        notes.append(f"left out of {entry}, without a lemma, a form or features: {lost}")
    return [
        ((*unicodedata.normalize("NFC", lemma), *_symbols(features)), unicodedata.normalize("NFC", form))
        for lemma, form, features in found
    ]


def _symbols(features: str) -> list[str]:
    return [f"<{feature.strip()}>" for feature in features.split(";")]
