"""Captions of images in four languages (Multi30k, Elliott et al.: arXiv 1605.00459), as directions of translation.

English, German and French train. Czech is seen in the test task alone.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path

from pipeline.core.seeding import Split
from pipeline.tasks import pairfile
from pipeline.tasks.ingest.texts import Ingested, hash_of, numbered, read_known
from pipeline.tasks.pairfile import Pair
from pipeline.tasks.pieces import processor, sentencepiece

ARCHIVES = {
    "train.cs.gz": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.cs.gz": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
}
PIECES, SUPPORT = 4_000, 1_000
_SEED_PIECES = 1_000_000
_KNOWN = ("en", "de", "fr")
_ALL = tuple(f"{one}-{other}" for one, other in permutations(_KNOWN, 2))
SPLITS: dict[str, dict[Split, tuple[str, ...]]] = {
    "six": {"train": _ALL, "val": ("de-en_val", "fr-en_val"), "test": ("cs-en",)},
    "four": {
        "train": ("en-de", "en-fr", "de-en", "fr-en"),
        "val": ("de-fr_val", "fr-de_val"),
        "test": ("cs-en",),
    },
}
"""Set -> split -> directions. Those named ``_val`` are new captions, of the files called val."""


def ingest(folder: Path, to: Path) -> Ingested:
    """Write the captions in ``folder`` to ``to``, with the split sets ``six`` and ``four``.

    A source is a tag such as ``<2de>``, which names the target's language, and then pieces of one sentencepiece model;
    a target is pieces, which the model kept in the file joins into text. The test task is cs-en: its support are the
    first 1,000 captions of training, which neither another task nor the model sees in any language (two of the English
    ones occur again), and its query is test_2016_flickr. ``six`` trains on all directions among en, de and fr, and
    validates on new captions of two of them; ``four`` holds out the directions between de and fr, and validates on new
    captions of those.

    Raises:
        ConfigError: sentencepiece is not installed.
        DataError: a file is missing or another one, or ``to`` cannot be written.
    """
    archives = read_known(folder, ARCHIVES)
    lines = {name: gzip.decompress(data).decode().splitlines() for name, data in archives.items()}
    train = {code: lines[f"train.{code}.gz"] for code in ("cs", *_KNOWN)}
    later = {code: train[code][SUPPORT:] for code in _KNOWN}
    val = {code: lines[f"val.{code}.gz"] for code in _KNOWN}
    test = {code: lines[f"test_2016_flickr.{code}.gz"] for code in ("cs", "en")}
    pieces = trained([line for code in _KNOWN for line in later[code]], PIECES)
    model = processor(pieces)

    def pairs(texts: Mapping[str, list[str]], direction: str) -> list[Pair]:
        source, target = direction.split("-")
        sides = (model.encode(texts[code], out_type=str) for code in (source, target))
        return [((f"<2{target}>", *ours), theirs) for ours, theirs in zip(*sides, strict=True)]

    new = [name for parts in SPLITS.values() for name in parts["val"]]
    languages = [
        *((direction, pairs(later, direction), list[Pair]()) for direction in _ALL),
        *((name, pairs(val, name.removesuffix("_val")), list[Pair]()) for name in new),
        ("cs-en", pairs({code: train[code][:SUPPORT] for code in ("cs", "en")}, "cs-en"), pairs(test, "cs-en")),
    ]
    splits = numbered(languages, SPLITS)
    return Ingested(pairfile.write(to, languages, splits, hash_of(archives), joiner="", pieces=pieces), [])


def trained(texts: Iterable[str], size: int) -> bytes:
    """A sentencepiece model of ``size`` pieces: the same bytes for the same texts. It changes no character of a text.

    Raises:
        ConfigError: sentencepiece is not installed.
    """
    model = io.BytesIO()
    sentencepiece().SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        bos_id=-1,
        eos_id=-1,
        seed_sentencepiece_size=_SEED_PIECES,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
