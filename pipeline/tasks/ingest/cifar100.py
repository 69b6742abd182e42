"""CIFAR-100 (Krizhevsky 2009) with the splits of CIFAR-FS and of FC100, from its pictures in folders to one file.

100 classes of 600 pictures, 32×32 in colour. CIFAR-FS (Bertinetto et al., arXiv 1805.08136) splits the classes at
random. FC100 (Oreshkin et al., arXiv 1805.10123) splits the superclasses, so that a test class is unlike any of
training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import get_args

import numpy as np

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.tasks import classfile
from pipeline.tasks.classfile import SplitSet
from pipeline.tasks.ingest.copies import Copies
from pipeline.tasks.ingest.folder import Ingested, labelled
from pipeline.tasks.ingest.pictures import UNREADABLE, read, reason
from pipeline.tasks.ingest.wording import shown, some_of
from pipeline.tasks.preparation import PicturePreparation

HALVES = {"train": 500, "test": 100}
"""The folders of CIFAR-100's own halves, which few-shot learning pools, and the pictures of a class in each."""
PICTURE = PicturePreparation(32, "rgb")
SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
NAMES = sorted(name for members in SUPERCLASSES.values() for name in members.split())
_GROUPS_OF_FC100: dict[Split, tuple[str, ...]] = {
    "val": ("large carnivores", "large omnivores and herbivores", "non-insect invertebrates", "small mammals"),
    "test": ("aquatic mammals", "insects", "medium-sized mammals", "people"),
}
_CIFAR_FS: dict[Split, str] = {
    "val": "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
    "television tractor",
    "test": "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
    "telephone wardrobe whale woman worm",
}
HELD_OUT: dict[str, dict[Split, list[str]]] = {
    "cifar-fs": {split: names.split() for split, names in _CIFAR_FS.items()},
    "fc100": {
        split: [name for group in groups for name in SUPERCLASSES[group].split()]
        for split, groups in _GROUPS_OF_FC100.items()
    },
}
"""Split set -> the classes of validation and of test; all others train."""


def ingest(folder: Path, to: Path) -> Ingested:
    """Write the pictures ``folder/train/CLASS/*`` and ``folder/test/CLASS/*`` to ``to``.

    The file has the split sets ``cifar-fs`` (64, 16 and 20 classes) and ``fc100`` (60, 20 and 20).

    Raises:
        DataError: the folder holds anything but CIFAR-100, or a picture cannot be read.
    """
    files = _files(folder)
    images = np.empty((sum(map(len, files.values())), PICTURE.size, PICTURE.size, 3), dtype=np.uint8)
    copies, source, row = Copies(), hashlib.sha256(), 0
    for name, pictures in files.items():
        for path in pictures:
            inside = shown(path.relative_to(folder))
            try:
                data = read(path)
                images[row], _ = PICTURE.decode(data)
            except UNREADABLE as error:
                raise DataError(f"{folder}: {inside} cannot be read ({reason(error)}); fetch it again") from None
            copies.add(name, inside, images[row])
            source.update(hashlib.sha256(data).digest())
            row += 1
    splits = {called: _split_set(held_out) for called, held_out in HELD_OUT.items()}
    counts = [len(pictures) for pictures in files.values()]
    file = classfile.write(to, images, counts, NAMES, splits, source.hexdigest(), PICTURE.saved())
    return Ingested(file, copies.notes())


def _files(folder: Path) -> dict[str, list[Path]]:
    """Class -> its pictures of both halves, in the order of their names."""
    files: dict[str, list[Path]] = {name: [] for name in NAMES}
    for half, each in HALVES.items():
        found = labelled(folder / half)
        wrong = [
            *(f"{name}: missing" for name in NAMES if name not in found),
            *(f"{name}: unknown" for name in found if name not in files),
            *(f"{name}: {len(found[name])}" for name in NAMES if name in found and len(found[name]) != each),
        ]
        if wrong:
            raise DataError(
                f"{folder / half}: {some_of(len(wrong), 'wrong class', wrong)}; expected the {len(NAMES)} classes of "
                f"CIFAR-100 with {each} pictures each, as {half}/CLASS/PICTURE"
            )
        for name in NAMES:
            files[name] += found[name]
    return files


def _split_set(held_out: Mapping[Split, Collection[str]]) -> SplitSet:
    held = {name: split for split, names in held_out.items() for name in names}
    splits: tuple[Split, ...] = get_args(Split)
    return {split: [at for at, name in enumerate(NAMES) if held.get(name, "train") == split] for split in splits}
