"""What class-indexed files share: rows sorted by class, and the names, offsets, split sets and checksums of classes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.tasks.arrowfile import SplitSet, Unfit, check_splits
from pipeline.tasks.watched import DataFile

Offsets = npt.NDArray[np.int64]


class ClassIndexed(DataFile, Protocol):
    """An open file whose parts are classes."""

    @property
    def offsets(self) -> Offsets:
        """[classes + 1], the rows where each class begins."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The name of each class."""
        ...

    @property
    def splits(self) -> Mapping[str, SplitSet]:
        """Split sets by name."""
        ...

    def summary(self) -> str:
        """What is printed of the file."""
        ...


def labels_of(counts: Sequence[int]) -> pa.Array:
    """The column ``label`` (int32) of classes with so many rows each."""
    return pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))


def checksums_of(rows: np.ndarray, offsets: Sequence[int]) -> list[int]:
    """The CRC-32 of each class's rows, which are contiguous in memory."""
    return [zlib.crc32(rows[first:last].data) for first, last in zip(offsets, offsets[1:], strict=False)]


def check_labels(kind: pa.DataType) -> None:
    """Raise ``Unfit`` where the column ``label`` is of another type."""
    if kind != pa.int32():
        raise Unfit(f"has labels of type {kind}, expected int32")


def offsets_of(batch: pa.RecordBatch, about: Mapping[str, Any]) -> Offsets:
    """The class offsets, checked against the labels of the rows."""
    offsets = np.array(about["offsets"], dtype=np.int64)
    labels = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if not np.array_equal(batch.column("label").to_numpy(), labels):
        raise Unfit("has rows that are not sorted by class as its offsets say")
    return offsets


def check_index(about: Any, rows: int) -> None:
    """Raise where names, offsets and split sets of the metadata do not fit together or the number of rows."""
    names, offsets, splits = about["names"], about["offsets"], about["splits"]
    if not all(isinstance(text, str) for text in (*names, about["source"], about["content"])):
        raise Unfit("has names or hashes that are not text")
    if not all(type(offset) is int for offset in offsets) or offsets[0] != 0 or offsets[-1] != rows:
        raise Unfit(f"has class offsets that do not run from 0 to its {rows} rows")
    if len(names) != len(offsets) - 1 or any(low >= high for low, high in zip(offsets, offsets[1:], strict=False)):
        raise Unfit("has class offsets that do not fit its class names")
    if len(about["checksums"]) != len(names) or not all(type(one) is int for one in about["checksums"]):
        raise Unfit("has checksums that do not fit its class names")
    check_splits(splits, len(names), "class")
