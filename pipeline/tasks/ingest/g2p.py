"""Grapheme to phoneme: words and their phones in 126 languages, from three zips to one file of pairs.

Training languages come from WikiPron (Lee et al.: LREC 2020; commit 185dfcf5 of its repository): of each language,
script and dialect with 1,000 words or more, up to 2,000 words of the broad transcription, or else of the narrow one.
Test languages are the low-resource languages of the SIGMORPHON shared tasks of 2021 (Ashby et al.:
2021.sigmorphon-1.13) and 2022. The data come from Wiktionary, under CC BY-SA 3.0.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from pipeline.core.seeding import Split
from pipeline.tasks import pairfile
from pipeline.tasks.ingest.texts import Ingested, hash_of, numbered, read_known, rows, unpacked
from pipeline.tasks.pairfile import Entry, Pair

WIKIPRON, TASK_2021, TASK_2022 = "wikipron_selection.zip", "sigmorphon2021_task1.zip", "sigmorphon2022_g2p.zip"
ARCHIVES = {
    WIKIPRON: "1115784d2e04e000f387083d6d9d33300f2f5f58b39a89140a498777adcb482c",
    TASK_2021: "3f95089fdee4a2d95788c1c2821221d23d581780e6cebb65216522e74d9556bf",
    TASK_2022: "51586cce2ffc08824e53de2248f4cade1106d7a2e4f8876e7a7928bccccd2d9a",
}
VALIDATION = (
    *("ceb_latn_broad", "hau_latn_broad", "phl_latn_broad", "tur_latn_broad"),
    *("bak_cyrl_narrow", "div_thaa_broad", "mnc_mong_narrow", "uig_arab_broad"),
)
"""Languages that are held out of training, whole: four in Latin script and four in others. They were drawn once, among
those whose language has one file in WikiPron, and are fixed."""

_DEV = "_dev.tsv"


def ingest(folder: Path, to: Path) -> Ingested:
    """Write the pairs of the three zips in ``folder`` to ``to``.

    Split sets are ``sigmorphon2022_100``, ``sigmorphon2022_800`` and ``sigmorphon2021_800``. A source is a word's code
    points in NFD, where Hangul falls into its letters and accents stand alone; a target is the word's phones as
    published. A language of training or validation has no query rows: each of its tasks draws both sets from all its
    words.

    Raises:
        DataError: a zip is missing or another one, or ``to`` cannot be written.
    """
    archives = read_known(folder, ARCHIVES)
    wikipron, task_2021, task_2022 = (unpacked(archives[name]) for name in (WIKIPRON, TASK_2021, TASK_2022))
    notes = list[str]()
    known = [(entry.removesuffix(".tsv"), _pairs(wikipron, entry, notes), list[Pair]()) for entry in wikipron]
    tests = {
        "sigmorphon2022_100": _targets(task_2022, "target_languages/", "_100_train.tsv", "", notes),
        "sigmorphon2022_800": _targets(task_2022, "target_languages/", "_train.tsv", "_800", notes),
        "sigmorphon2021_800": _targets(task_2021, "low/", "_train.tsv", "_2021", notes),
    }
    languages = [*known, *chain.from_iterable(tests.values())]
    train = [name for name, _, _ in known if name not in VALIDATION]
    sets: dict[str, dict[Split, Sequence[str]]] = {
        name: {"train": train, "val": VALIDATION, "test": [each for each, _, _ in of_test]}
        for name, of_test in tests.items()
    }
    splits = numbered(languages, sets)
    return Ingested(pairfile.write(to, languages, splits, hash_of(archives), joiner=" "), notes)


def _targets(texts: Mapping[str, str], place: str, train: str, suffix: str, notes: list[str]) -> list[Entry]:
    """The languages of a shared task: support pairs from the files ending in ``train``, query pairs from ``dev``."""
    dev = [entry for entry in texts if entry.startswith(place) and entry.endswith(_DEV)]
    starts = [entry.removesuffix(_DEV) for entry in dev]
    return [
        (start.removeprefix(place) + suffix, _pairs(texts, start + train, notes), _pairs(texts, start + _DEV, notes))
        for start in starts
    ]


def _pairs(texts: Mapping[str, str], entry: str, notes: list[str]) -> list[Pair]:
    found, lost = rows(texts[entry], columns=2)
    if lost:
        notes.append(f"left out of {entry}, without a word or its phones: {lost}")
    return [(unicodedata.normalize("NFD", word), phones.split()) for word, phones in found]
