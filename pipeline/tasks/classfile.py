"""The class-indexed image file: Arrow IPC, one record batch with its rows sorted by class, read through a memory map.

Columns are ``image`` (fixed-shape tensor of uint8, [H, W] or [H, W, 3]) and ``label`` (int32, index of the class).
Class names, class offsets, split sets and checksums are JSON in the schema's metadata under the key ``metafleet``.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.tasks import arrowfile
from pipeline.tasks.arrowfile import SplitSet, Unfit, split_lines
from pipeline.tasks.class_index import check_index, check_labels, checksums_of, labels_of, offsets_of

FORMAT = 2
_CONTENT = 1  # part of the content hash, which is the same in both formats

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClassFile:
    """An open file: ``images`` [N, H, W] or [N, H, W, 3] are its mapped, read-only pages.

    ``offsets`` [classes + 1] are the rows where each class begins; ``source`` is the hash of what was ingested,
    ``content`` the hash of pixels, names, offsets and splits, equal whenever the same input is ingested again, and
    ``checksums`` the CRC-32 of each class's pixels. ``preparation`` says how pictures became these images, as
    ``PicturePreparation.saved`` has it; older files do not say.
    """

    images: Pixels
    offsets: npt.NDArray[np.int64]
    names: Sequence[str]
    splits: Mapping[str, SplitSet]
    source: str
    content: str
    checksums: Sequence[int]
    preparation: Mapping[str, Any] | None = None

    def is_whole(self, index: int) -> bool:
        """Whether the pixels of a class have their checksum: a disk can lose bits silently."""
        return zlib.crc32(self.images[self.offsets[index] : self.offsets[index + 1]].data) == self.checksums[index]

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, last) of a class."""
        first, last = self.offsets[index : index + 2].tolist()
        return first, last

    def part(self, index: int) -> str:
        """What an error calls a class."""
        return f"the images of class {self.names[index]!r}"

    def summary(self) -> str:
        """The summary that is printed: classes, images, the sizes of the splits and the content hash."""
        of = "×".join(map(str, self.images.shape[1:]))
        lines = [f"{len(self.names)} classes, {len(self.images)} images of {of}"]
        return "\n".join([*lines, *split_lines(self.splits), f"sha256 {self.content}"])


def write(
    path: Path,
    images: Pixels,
    counts: Sequence[int],
    names: Sequence[str],
    splits: Mapping[str, SplitSet],
    source: str,
    preparation: Mapping[str, Any] | None = None,
) -> ClassFile:
    """Write ``images``, sorted by class with ``counts`` rows each, whole or not at all, and open the result.

    Raises:
        DataError: the file cannot be written; nothing is left behind.
    """
    offsets = [0, *np.cumsum(counts).tolist()]
    described: dict[str, Any] = {"names": list(names), "offsets": offsets, "splits": splits}
    images = np.ascontiguousarray(images)
    checksums = checksums_of(images, offsets)
    hashes = {"source": source, "content": _content(images, described), "checksums": checksums}
    about = {"format": FORMAT, **described, **hashes}
    if preparation is not None:
        about["preparation"] = dict(preparation)
    columns = {"image": pa.FixedShapeTensorArray.from_numpy_ndarray(images), "label": labels_of(counts)}
    arrowfile.write_batch(path, columns, about)
    return read(path)


def read(path: Path) -> ClassFile:
    """Map a file into memory without a copy, and check everything except the pixels, which ``is_whole`` checks.

    Raises:
        DataError: there is no such file, or it is not one of ours, or its parts do not fit together.
    """
    try:
        batch = arrowfile.only_batch(path, _check_schema)
        about = arrowfile.described(batch, FORMAT, _check)
        offsets = offsets_of(batch, about)
    except Unfit as reason:
        raise arrowfile.refused(path, reason) from None
    images = cast(Pixels, batch.column("image").to_numpy_ndarray())
    names, splits, source, content, checksums = (
        about[key] for key in ("names", "splits", "source", "content", "checksums")
    )
    return ClassFile(images, offsets, names, splits, source, content, checksums, about.get("preparation"))


def _check_schema(schema: pa.Schema) -> None:
    if schema.names != ["image", "label"]:
        raise Unfit(f"has the columns {', '.join(schema.names)}, expected image, label")
    image, label = schema.types
    check_labels(label)
    tensor = isinstance(image, pa.FixedShapeTensorType) and image.value_type == pa.uint8()
    in_order = tensor and image.permutation in (None, sorted(image.permutation or []))
    if not in_order or len(image.shape) not in (2, 3) or image.shape[2:] not in ([], [3]) or min(image.shape) < 1:
        raise Unfit(f"has images of type {image}, expected fixed_shape_tensor of uint8, [H, W] or [H, W, 3]")


def _check(about: Any, rows: int) -> None:
    """Raise where the metadata do not fit together or the number of rows."""
    check_index(about, rows)
    if not isinstance(about.get("preparation", {}), dict):
        raise Unfit("has a preparation of pictures that is no object")


def _content(images: Pixels, described: Mapping[str, Any]) -> str:
    """The sha256 of the content, independent of Arrow's layout."""
    digest = hashlib.sha256(json.dumps([_CONTENT, images.shape, described], sort_keys=True).encode())
    digest.update(images.data)
    return digest.hexdigest()
