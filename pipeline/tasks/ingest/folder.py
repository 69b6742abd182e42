"""Images in a folder with one sub-folder for each class, or in ``train``, ``val`` and ``test`` folders of such."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split
from pipeline.tasks import classfile
from pipeline.tasks.classfile import ClassFile, Pixels
from pipeline.tasks.ingest.copies import Copies
from pipeline.tasks.ingest.links import OUTWARD, leads_out
from pipeline.tasks.ingest.options import Options
from pipeline.tasks.ingest.pictures import MAX_SIDE, SUFFIXES, UNREADABLE, grey_bits, read, reason
from pipeline.tasks.ingest.splits import chosen
from pipeline.tasks.ingest.wording import shown, some_of
from pipeline.tasks.preparation import PicturePreparation

SPELLINGS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
JUNK = ("__MACOSX", "@eaDir")
"""Folders that archive programs add."""
MAX_DEPTH = 8


class Ingested(NamedTuple):
    """The file, and a line for each thing that was left out or changed."""

    file: ClassFile
    notes: list[str]


class _Tree(NamedTuple):
    classes: dict[str, list[Path]]
    splits: dict[Split, list[str]] | None
    other: Counter[str]
    small: tuple[str, ...] = ()


class _Decoded(NamedTuple):
    images: Pixels
    counts: dict[str, int]
    unreadable: list[str]
    modes: Counter[str]
    flat: list[str]
    source: str
    how: PicturePreparation
    copies: Copies


def ingest(folder: Path, to: Path, options: Options) -> Ingested:
    """Write the images under ``folder`` to ``to``, with the split set ``random``, or ``folder`` where folders say it.

    Transparent pixels become white, an animation gives its first frame, and the camera's orientation is applied. All
    pixels are held in memory. Hidden files, and files without the suffix of an image, are ignored.

    Raises:
        ConfigError: an option is out of range, or the shares leave a split without a class.
        DataError: the folder has no images, an empty class, a class in two splits or files that cannot be read.
    """
    _check(options)
    tree = _large_enough(_look(folder), options.min_images)
    if not any(tree.classes.values()):
        saw = ", ".join(f"{count} {shown(kind)}" for kind, count in sorted(tree.other.items())) or "nothing"
        raise DataError(
            f"{folder}: no images found (looked for CLASS/IMAGE ending in {', '.join(SUFFIXES)}; saw {saw})"
        )
    filled = [name for name, files in tree.classes.items() if files]
    empty = [name for name in tree.classes if name not in filled]
    if empty and not options.skip_unreadable:
        some = some_of(len(empty), "class", empty)
        raise DataError(f"{folder}: {some} without images; remove the folders or pass --skip-unreadable")
    chosen(folder, filled, tree.splits, options)  # refuses a wrong split before any image is decoded
    decoded = _decode_all(folder, tree.classes, options)
    names = [name for name in filled if decoded.counts[name]]
    if decoded.unreadable and not (options.skip_unreadable and names):
        some = some_of(len(decoded.unreadable), "unreadable image", decoded.unreadable)
        fix = "nothing is left" if options.skip_unreadable else "mend them, or leave them out with --skip-unreadable"
        raise DataError(f"{folder}: {some}; {fix}")
    if len(decoded.flat) == len(decoded.images):
        raise DataError(f"{folder}: every image is one flat colour, so there is nothing to learn; look at the files")
    splits = chosen(folder, names, tree.splits, options)
    decoded.copies.refuse_in_two_splits(folder, names, splits)
    counts = [decoded.counts[name] for name in names]
    file = classfile.write(to, decoded.images, counts, names, splits, decoded.source, decoded.how.saved())
    return Ingested(file, _notes(tree, decoded, options))


def labelled(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class: of each sub-folder, or of those beneath it where it has none of its own.

    Raises:
        DataError: there are none, or a class is empty.
    """
    root, other = folder.resolve(), Counter[str]()
    classes = _classes(folder, _folders(folder, root, other), root, other)
    empty = [name for name, files in classes.items() if not files]
    if empty or not classes:
        some = f"{some_of(len(empty), 'class', empty)} without pictures" if empty else "no pictures found"
        raise DataError(f"{folder}: {some}; expected a sub-folder for each class, as CLASS/PICTURE")
    return classes


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and in those beneath it, in the order of their paths. Raises ``DataError`` for none."""
    root, other, found, ahead = folder.resolve(), Counter[str](), list[Path](), [(folder, 0)]
    while ahead:
        place, depth = ahead.pop()
        found += _images(place, root, other)
        if depth < MAX_DEPTH:
            inner = _folders(place, root, Counter()).values()
            ahead += [(path, depth + 1) for path in inner if not path.is_symlink()]
    if not found:
        raise DataError(f"{folder}: no pictures found (looked for files ending in {', '.join(SUFFIXES)})")
    return sorted(found)


def _check(options: Options) -> None:
    if not 1 <= options.size <= MAX_SIDE:
        raise ConfigError(f"--size: {options.size} pixels; expected 1 to {MAX_SIDE}")
    if not 0 <= options.seed < 1 << 32:
        raise ConfigError(f"--seed: {options.seed}; expected 0 to {(1 << 32) - 1}")
    if options.min_images < 1:
        raise ConfigError(f"--min-images: {options.min_images}; expected 1 or more")
    shares = options.split
    if shares is None:
        return
    if len(shares) != 3 or min(shares) < 0 or not shares[0] or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        written = ",".join(map(str, shares))
        raise ConfigError(f"--split: {written}; expected three shares that add up to 1, such as 0.64,0.16,0.20")


def _look(folder: Path) -> _Tree:
    """The images to read. It descends no deeper than class folders, so that a loop of links cannot stall it."""
    other: Counter[str] = Counter()
    root = folder.resolve()
    folders = _folders(folder, root, other)
    by_split = _by_split(folder, folders)
    if "train" not in by_split or len(by_split) < len(folders):
        return _Tree(_classes(folder, folders, root, other), None, other)
    classes: dict[str, list[Path]] = {}
    owner: dict[str, Split] = {}
    for split, path in by_split.items():
        of_split = _classes(path, _folders(path, root, other), root, other)
        twice = [f"{name} in {owner[name]} and {split}" for name in of_split if name in owner]
        if twice:
            some = some_of(len(twice), "class", twice)
            raise DataError(f"{folder}: {some} in two splits; the splits of few-shot learning share no class")
        classes |= of_split
        owner |= dict.fromkeys(of_split, split)
    splits = {split: [name for name in classes if owner[name] == split] for split in by_split}
    return _Tree(dict(sorted(classes.items())), splits, other)


def _by_split(folder: Path, folders: dict[str, Path]) -> dict[Split, Path]:
    """The folders that are named like a split, in any usual spelling."""
    found: dict[Split, Path] = {}
    for split in get_args(Split):
        named = [name for name in folders if SPELLINGS.get(name.lower()) == split]
        if len(named) > 1:
            raise DataError(f"{folder}: {' and '.join(map(shown, named))} are both {split}; merge the folders")
        if named:
            found[split] = folders[named[0]]
    return found


def _classes(
    top: Path, folders: dict[str, Path], root: Path, other: Counter[str], depth: int = 0
) -> dict[str, list[Path]]:
    """Images by class: a folder without images of its own stands for those beneath it, named by their paths."""
    found: dict[str, list[Path]] = {}
    for path in folders.values():
        seen, beneath = Counter[str](), Counter[str]()
        images, inner = _images(path, root, seen), dict[str, list[Path]]()
        if not images and depth < MAX_DEPTH and not path.is_symlink():
            inner = _classes(top, _folders(path, root, Counter()), root, beneath, depth + 1)
        if any(inner.values()):
            seen.pop("folders")
            found |= inner
            other.update(seen + beneath)
        else:
            found[path.relative_to(top).as_posix()] = images
            other.update(seen)
    return found


def _large_enough(tree: _Tree, least: int) -> _Tree:
    """The tree without classes that have some images but fewer than ``least``."""
    small = {name: len(files) for name, files in tree.classes.items() if 0 < len(files) < least}
    classes = {name: files for name, files in tree.classes.items() if name not in small}
    return tree._replace(classes=classes, small=tuple(f"{shown(name)} ({count})" for name, count in small.items()))


def _entries(folder: Path, root: Path, other: Counter[str]) -> list[Path]:
    """The entries of a folder. Links that lead out of ``root`` are not followed, because a stranger may have made
    them."""
    try:
        entries = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name not in JUNK)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; expected a folder with one sub-folder per class") from None
    within = [path for path in entries if not leads_out(path, root)]
    if len(within) < len(entries):
        other[OUTWARD] += len(entries) - len(within)
    return within


def _folders(folder: Path, root: Path, other: Counter[str]) -> dict[str, Path]:
    entries = _entries(folder, root, other)
    other.update(path.suffix.lower() or "files" for path in entries if not path.is_dir())
    return {path.name: path for path in entries if path.is_dir()}


def _images(folder: Path, root: Path, other: Counter[str]) -> list[Path]:
    entries = _entries(folder, root, other)
    images = [path for path in entries if path.suffix.lower() in SUFFIXES and path.is_file()]
    kinds = {path: "folders" if path.is_dir() else path.suffix.lower() or "files" for path in entries}
    other.update(kinds[path] for path in set(entries) - set(images))
    return images


def _decode_all(folder: Path, classes: dict[str, list[Path]], options: Options) -> _Decoded:
    colours = (3,) if options.mode == "rgb" else ()
    shape = (sum(map(len, classes.values())), options.size, options.size, *colours)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise DataError(
            f"{folder}: {shape[0]} images need {math.prod(shape) / 1e9:.1f} GB of memory; choose a smaller --size"
        ) from None
    counts, modes, source = dict.fromkeys(classes, 0), Counter[str](), hashlib.sha256()
    unreadable, flat = list[str](), list[str]()
    bits = grey_bits(path for files in classes.values() for path in files)
    row, how, copies = 0, PicturePreparation(options.size, options.mode, bits), Copies()
    for name, files in classes.items():
        for path in files:
            inside = path.relative_to(folder)
            try:
                data = read(path)
                images[row], mode = how.decode(data)
            except UNREADABLE as error:
                unreadable.append(f"{shown(inside)} ({reason(error)})")
                continue
            if (images[row] == images[row, 0, 0]).all():
                flat.append(shown(inside))
            copies.add(name, shown(inside), images[row])
            source.update(hashlib.sha256(os.fsencode(inside) + b"\0" + data).digest())
            modes[mode] += 1
            counts[name] += 1
            row += 1
    return _Decoded(images[:row], counts, unreadable, modes, flat, source.hexdigest(), how, copies)


def _notes(tree: _Tree, decoded: _Decoded, options: Options) -> list[str]:
    target = "RGB" if options.mode == "rgb" else "L"
    return [
        *(f"left out, unreadable: {image}" for image in decoded.unreadable),
        *(f"left out, fewer than {options.min_images} images: class {name}" for name in tree.small),
        *(f"left out, no images: class {shown(name)}" for name, count in decoded.counts.items() if not count),
        *(f"ignored: {count} {shown(kind)}" for kind, count in sorted(tree.other.items())),
        *(f"one flat colour: {image}" for image in decoded.flat),
        *decoded.copies.notes(),
        *(f"grey levels of {decoded.how.bits} bits: scaled to 8" for mode in decoded.modes if mode.startswith("I;16")),
        *(
            f"converted: {count} images from mode {mode} to {target}"
            for mode, count in sorted(decoded.modes.items())
            if mode != target
        ),
    ]
