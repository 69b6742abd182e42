"""The class-indexed table: Arrow IPC, one record batch with its rows sorted by class, read through a memory map.

Columns are ``features`` (fixed-shape tensor of float32, [F], standardised) and ``label`` (int32, index of the class).
Class names, offsets, split sets, checksums and the standardisation are JSON in the schema's metadata under the key
``metafleet``.
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
import pyarrow as pa

from pipeline.tasks import arrowfile
from pipeline.tasks.arrowfile import SplitSet, Unfit, split_lines
from pipeline.tasks.class_index import Offsets, check_index, check_labels, checksums_of, labels_of, offsets_of
from pipeline.tasks.standardise import Features, Standardise

FORMAT = 1


@dataclass(frozen=True)
class TableFile:
    """An open file: ``features`` [N, F] are its mapped, read-only pages; the rest is as ``ClassFile`` has it.

    ``preparation`` is what made the features out of raw columns.
    """

    features: Features
    offsets: Offsets
    names: Sequence[str]
    splits: Mapping[str, SplitSet]
    source: str
    content: str
    checksums: Sequence[int]
    preparation: Standardise

    def is_whole(self, index: int) -> bool:
        """Whether the rows of a class have their checksum."""
        first, last = self.rows(index)
        return zlib.crc32(self.features[first:last].data) == self.checksums[index]

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, last) of a class."""
        first, last = self.offsets[index : index + 2].tolist()
        return first, last

    def part(self, index: int) -> str:
        """What an error calls a class."""
        return f"the rows of class {self.names[index]!r}"

    def summary(self) -> str:
        """The summary that is printed: classes, rows, columns, the sizes of the splits and the content hash."""
        lines = [f"{len(self.names)} classes, {len(self.features)} rows of {self.features.shape[1]} numbers"]
        return "\n".join([*lines, *split_lines(self.splits), f"sha256 {self.content}"])


def write(
    path: Path,
    features: Features,
    counts: Sequence[int],
    names: Sequence[str],
    splits: Mapping[str, SplitSet],
    source: str,
    preparation: Standardise,
) -> TableFile:
    """Write ``features`` [N, F], sorted by class with ``counts`` rows each, whole or not at all, and open the result.

    Raises:
        DataError: the file cannot be written; nothing is left behind.
    """
    offsets = [0, *np.cumsum(counts).tolist()]
    described: dict[str, Any] = {"names": list(names), "offsets": offsets, "splits": splits}
    described["preparation"] = preparation.saved()
    features = np.ascontiguousarray(features, dtype=np.float32)
    checksums = checksums_of(features, offsets)
    hashes = {"source": source, "content": _content(features, described), "checksums": checksums}
    columns = {"features": pa.FixedShapeTensorArray.from_numpy_ndarray(features), "label": labels_of(counts)}
    arrowfile.write_batch(path, columns, {"format": FORMAT, **described, **hashes})
    return read(path)


def read(path: Path) -> TableFile:
    """Map a file into memory without a copy, and check everything except the numbers, which ``is_whole`` checks.

    Raises:
        DataError: there is no such file, or it is not one of ours, or its parts do not fit together.
    """
    try:
        batch = arrowfile.only_batch(path, _check_schema)
        about = arrowfile.described(batch, FORMAT, _check)
        offsets = offsets_of(batch, about)
        features = cast(Features, batch.column("features").to_numpy_ndarray())
        preparation = Standardise.restored(about["preparation"])
        if len(preparation.columns) != features.shape[1]:
            raise Unfit(f"has {features.shape[1]} columns and a standardisation of {len(preparation.columns)}")
    except Unfit as reason:
        raise arrowfile.refused(path, reason) from None
    names, splits, source, content, checksums = (
        about[key] for key in ("names", "splits", "source", "content", "checksums")
    )
    return TableFile(features, offsets, names, splits, source, content, checksums, preparation)


def _check_schema(schema: pa.Schema) -> None:
    if schema.names != ["features", "label"]:
        raise Unfit(f"has the columns {', '.join(schema.names)}, expected features, label")
    features, label = schema.types
    check_labels(label)
    if not isinstance(features, pa.FixedShapeTensorType) or features.value_type != pa.float32():
        raise Unfit(f"has features of type {features}, expected fixed_shape_tensor of float32")
    if len(features.shape) != 1 or features.shape[0] < 1:
        raise Unfit(f"has features of shape {features.shape}, expected one number or more")


def _check(about: Any, rows: int) -> None:
    check_index(about, rows)
    Standardise.restored(about["preparation"])


def _content(features: Features, described: Mapping[str, Any]) -> str:
    """The sha256 of the content, independent of Arrow's layout."""
    digest = hashlib.sha256(json.dumps([FORMAT, features.shape, described], sort_keys=True).encode())
    digest.update(features.data)
    return digest.hexdigest()
