"""How texts become symbols and symbols a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.core.failures import DataError
from pipeline.tasks.pieces import processor

Symbols = Sequence[str]


class Writing(NamedTuple):
    """How jobs.ingest splits texts, and what joins the symbols of an answer.

    Args:
        source: the symbols of a source.
        target: the symbols of a target.
        join: the text of a target's symbols.
    """

    source: Callable[[str], Symbols]
    target: Callable[[str], Symbols]
    join: Callable[[Symbols], str]


def words(pieces: bytes) -> Writing:
    """A word's code points in NFD, and phones that blanks separate."""
    return Writing(lambda word: unicodedata.normalize("NFD", word), str.split, " ".join)


def forms(pieces: bytes) -> Writing:
    """``lemma<TAB>V;PST`` as a lemma's characters in NFC and its features, such as ``<V>``; a form's characters."""

    def source(text: str) -> Symbols:
        lemma, _, features = text.partition("\t")
        if not (lemma and features):
            raise DataError(f"{text!r}: expected a lemma, a tab and its features, such as 'walk\\tV;PST'")
        return (*unicodedata.normalize("NFC", lemma), *(f"<{feature.strip()}>" for feature in features.split(";")))

    return Writing(source, lambda form: unicodedata.normalize("NFC", form), "".join)


def tagged_pieces(pieces: bytes) -> Writing:
    """A tag such as ``<2en>``, which names the target's language, and a sentencepiece model's pieces; and pieces."""
    model = processor(pieces)

    def source(text: str) -> Symbols:
        tag = re.match(r"(<2\w+>)\s*(.+)", text)
        if tag is None:
            raise DataError(f"{text!r}: expected a tag of the target's language before the text, such as <2en>")
        return (tag[1], *model.encode(tag[2], out_type=str))

    return Writing(source, lambda text: model.encode(text, out_type=str), model.decode_pieces)


WRITINGS: dict[str, Callable[[bytes], Writing]] = {"words": words, "forms": forms, "pieces": tagged_pieces}
"""By the name that is saved with a run, given a sentencepiece model or nothing."""
