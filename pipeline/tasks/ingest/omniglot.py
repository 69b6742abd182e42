"""Omniglot (Lake, Salakhutdinov, Tenenbaum: Science 350, 2015), from its two upstream zips to one file.

1623 characters of 50 alphabets, 20 drawings each: 105×105 one-bit images become 28×28 by Pillow's Lanczos filter in
mode L, inverted so that ink is 1 (255), as in MAML's experiments.
"""

from __future__ import annotations

import hashlib
import io
import struct
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.failures import DataError
from pipeline.tasks import classfile
from pipeline.tasks.classfile import ClassFile, Pixels, SplitSet
from pipeline.tasks.ingest.folder import UNREADABLE
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.preparation import PicturePreparation

UPSTREAM = "https://github.com/brendenlake/omniglot/raw/master/python"
ARCHIVES = {
    "images_background.zip": "67ade8c6c15cbe0a469deabc822fc6a90c38b6600cfc46be9de3e94f389d1921",
    "images_evaluation.zip": "046704d8dbec028daa9e24d2e7bb099c4f057fec57b7a8f5931eff697f91758f",
}
CLASSES, DRAWINGS, SIDE = 1623, 20, 28
DRAWN = PicturePreparation(SIDE, "grey", inverted=True)
VALIDATION_ALPHABETS = (
    "Anglo-Saxon_Futhorc",
    "Arcadian",
    "Asomtavruli_(Georgian)",
    "Balinese",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
)
"""Alphabets of the background set that are held out whole. They were drawn once and are fixed, so that the split never
changes."""

_RANDOM_SEED, _RANDOM_TRAIN, _RANDOM_VAL = 1623, 1100, 100
_DRAWN_SIZE = (105, 105)
_MAX_ENTRIES, _MAX_IMAGE_BYTES, _MAX_ARCHIVE_BYTES = 25_000, 4_096, 1 << 24
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other compression methods can expand a few bytes to gigabytes; these expand a byte to at most 1032."""

_TIMEOUT_S = 60.0

Characters = dict[str, list[bytes]]
"""Class name -> its drawings as PNG files, in the order of their file names."""


def ingest(archives: Mapping[str, bytes], to: Path) -> ClassFile:
    """Write the drawings of both zips to ``to`` with the split sets ``random`` and ``background``.

    Raises:
        DataError: the zips are damaged or hold anything but Omniglot; ``to`` is as it was.
    """
    background, evaluation = (_characters(name, archives[name]) for name in ARCHIVES)
    characters = background | evaluation
    names = sorted(characters)
    wrong = [name for name in names if len(characters[name]) != DRAWINGS]
    if len(names) != CLASSES or wrong:
        some = f", {len(wrong)} of them without {DRAWINGS} drawings: {', '.join(wrong[:3])}" if wrong else ""
        raise DataError(
            f"{' and '.join(ARCHIVES)}: hold {len(names)} characters{some}; expected {CLASSES} of {DRAWINGS} each"
        )
    images = np.stack([_drawing(name, png) for name in names for png in characters[name]])
    splits = {"random": _random_split(), "background": _background_split(names, set(background))}
    source = hashlib.sha256(b"".join(hashlib.sha256(archives[name]).digest() for name in ARCHIVES)).hexdigest()
    return classfile.write(to, images, [DRAWINGS] * CLASSES, names, splits, source, DRAWN.saved())


def archives_of(origin: Path) -> dict[str, bytes]:
    """The two zips from the folder ``origin``, or where it is the word download, from the authors' repository."""
    return download() if origin == Path("download") else from_folder(origin)


def from_folder(folder: Path) -> dict[str, bytes]:
    """The two zips in ``folder``.

    Raises:
        DataError: one is missing, unreadable or far too large.
    """
    archives = {}
    for name in ARCHIVES:
        try:
            with open_file(folder / name) as file:
                archives[name] = _capped(file.read(_MAX_ARCHIVE_BYTES + 1), folder / name)
        except OSError as error:
            raise DataError(
                f"{folder / name}: {error.strerror}; --from takes the folder that holds {' and '.join(ARCHIVES)}"
            ) from None
    return archives


def download() -> dict[str, bytes]:
    """The two zips from the authors' repository, compared with the hashes above.

    Raises:
        DataError: the network or the server fails, or sends something else.
    """
    archives = {}
    for name, expected in ARCHIVES.items():
        url = f"{UPSTREAM}/{name}"
        way_out = "fetch the two zips another way and pass their folder with --from PATH"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                archives[name] = _capped(answer.read(_MAX_ARCHIVE_BYTES + 1), url)
        except (OSError, HTTPException, ValueError) as error:
            raise DataError(f"{url}: download failed ({error}); {way_out}") from None
        found = hashlib.sha256(archives[name]).hexdigest()
        if found != expected:
            raise DataError(f"{url}: has sha256 {found[:12]}…, expected {expected[:12]}…; {way_out}")
    return archives


def _capped(data: bytes, place: object) -> bytes:
    if len(data) > _MAX_ARCHIVE_BYTES:
        raise DataError(f"{place}: is larger than {_MAX_ARCHIVE_BYTES >> 20} MiB, which Omniglot's zips are not")
    return data


def _characters(name: str, archive: bytes) -> Characters:
    """``Alphabet/characterNN`` -> drawings, independent of the order in the zip."""
    characters: Characters = {}
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename.endswith(".png")]
            sizes = [entry.file_size for entry in entries]
            largest, total = max(sizes, default=0), sum(sizes)
            if len(opened.infolist()) > _MAX_ENTRIES or largest > _MAX_IMAGE_BYTES or total > _MAX_ARCHIVE_BYTES:
                raise DataError(f"{name}: has {len(entries)} images of up to {largest} bytes, which is not Omniglot")
            if any(entry.compress_type not in _PLAIN for entry in entries):
                raise DataError(f"{name}: is packed in an unusual way, which is not Omniglot's; fetch it again")
            for entry in sorted(entries, key=lambda entry: entry.filename):
                character = "/".join(entry.filename.split("/")[-3:-1])
                characters.setdefault(character, []).append(opened.read(entry))
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{name}: is not a readable zip ({error}); fetch it again") from None
    return characters


def _drawing(name: str, png: bytes) -> Pixels:
    """[28, 28], ink 255 on 0."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            size = image.size
            if size == _DRAWN_SIZE:
                return DRAWN.convert(image)
    except UNREADABLE as error:
        raise DataError(f"{name}: a drawing cannot be read ({error}); fetch the zips again") from None
    raise DataError(f"{name}: a drawing has {size} pixels, Omniglot's have {_DRAWN_SIZE}; fetch the zips again")


def _random_split() -> SplitSet:
    """1100/100/423 characters as in MAML, with numpy's legacy generator, whose permutation never changes."""
    order = np.random.RandomState(_RANDOM_SEED).permutation(CLASSES)
    train, val, test = np.split(order, [_RANDOM_TRAIN, _RANDOM_TRAIN + _RANDOM_VAL])
    return {"train": sorted(train.tolist()), "val": sorted(val.tolist()), "test": sorted(test.tolist())}


def _background_split(names: list[str], background: set[str]) -> SplitSet:
    """Lake's split: train on the 964 characters of the background alphabets, test on the 659 of the others."""
    held_out = {name for name in background if name.split("/")[0] in VALIDATION_ALPHABETS}
    parts = {"train": background - held_out, "val": held_out, "test": set(names) - background}
    return {
        "train": [index for index, name in enumerate(names) if name in parts["train"]],
        "val": [index for index, name in enumerate(names) if name in parts["val"]],
        "test": [index for index, name in enumerate(names) if name in parts["test"]],
    }
