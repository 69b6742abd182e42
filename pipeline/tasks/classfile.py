"""The class-indexed image file: Arrow IPC, one record batch with its rows sorted by class, read through a memory map.

Columns are ``image`` (fixed-shape tensor of uint8, [H, W] or [H, W, 3]) and ``label`` (int32, index of the class).
Class names, class offsets, split sets and checksums are JSON in the schema's metadata under the key ``metafleet``.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.storage.local import write_whole

FORMAT = 2
_CONTENT = 1  # part of the content hash, which is the same in both formats
_KEY, _MAGIC = b"metafleet", b"ARROW1\0\0"

Pixels = npt.NDArray[np.uint8]
SplitSet = Mapping[Split, Sequence[int]]
"""Split -> the indices of its classes; no class is in two."""


@dataclass(frozen=True)
class ClassFile:
    """An open file: ``images`` [N, H, W] or [N, H, W, 3] are its mapped, read-only pages.

    ``offsets`` [classes + 1] are the rows where each class begins; ``source`` is the hash of what was ingested,
    ``content`` the hash of pixels, names, offsets and splits, equal whenever the same input is ingested again, and
    ``checksums`` the CRC-32 of each class's pixels.
    """

    images: Pixels
    offsets: npt.NDArray[np.int64]
    names: Sequence[str]
    splits: Mapping[str, SplitSet]
    source: str
    content: str
    checksums: Sequence[int]

    def is_whole(self, index: int) -> bool:
        """Whether the pixels of a class have their checksum: a disk can lose bits silently."""
        return zlib.crc32(self.images[self.offsets[index] : self.offsets[index + 1]].data) == self.checksums[index]

    def summary(self) -> str:
        """The summary that is printed: classes, images, the sizes of the splits and the content hash."""
        of = "×".join(map(str, self.images.shape[1:]))
        sizes = {
            name: ", ".join(f"{len(indices)} {split}" for split, indices in split_set.items())
            for name, split_set in self.splits.items()
        }
        lines = [f"{len(self.names)} classes, {len(self.images)} images of {of}"]
        return "\n".join([*lines, *(f"split {name}: {size}" for name, size in sizes.items()), f"sha256 {self.content}"])


def write(
    path: Path, images: Pixels, counts: Sequence[int], names: Sequence[str], splits: Mapping[str, SplitSet], source: str
) -> ClassFile:
    """Write ``images``, sorted by class with ``counts`` rows each, whole or not at all, and open the result.

    Raises:
        DataError: the file cannot be written; nothing is left behind.
    """
    offsets = [0, *np.cumsum(counts).tolist()]
    described: dict[str, Any] = {"names": list(names), "offsets": offsets, "splits": splits}
    images = np.ascontiguousarray(images)
    checksums = [zlib.crc32(images[first:last].data) for first, last in zip(offsets, offsets[1:], strict=False)]
    hashes = {"source": source, "content": _content(images, described), "checksums": checksums}
    about = {"format": FORMAT, **described, **hashes}
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    label = pa.array(np.repeat(np.arange(len(names), dtype=np.int32), counts))
    fields = [pa.field("image", tensor.type), pa.field("label", label.type)]
    batch = pa.record_batch([tensor, label], schema=pa.schema(fields, metadata={_KEY: json.dumps(about)}))

    def fill(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, fill)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place with --to"
        ) from None
    return read(path)


def read(path: Path) -> ClassFile:
    """Map a file into memory without a copy, and check everything except the pixels, which ``is_whole`` checks.

    Raises:
        DataError: there is no such file, or it is not one of ours, or its parts do not fit together.
    """
    try:
        batch = _only_batch(path)
        about, offsets = _about(batch)
    except _Unfit as reason:
        raise DataError(f"{path}: {reason}; make it again with `python -m jobs.ingest`") from None
    images = cast(Pixels, batch.column("image").to_numpy_ndarray())
    described = (about[key] for key in ("names", "splits", "source", "content", "checksums"))
    return ClassFile(images, offsets, *described)


class _Unfit(Exception):
    """Why a file is refused, as the end of a sentence that begins with its path."""


def _only_batch(path: Path) -> pa.RecordBatch:
    try:
        mapped = pa.memory_map(str(path)).read_buffer()
        footer = pa.ipc.open_file(mapped)
        _check_schema(footer.schema)
        if footer.num_record_batches != 1:
            raise _Unfit(f"has {footer.num_record_batches} record batches, expected 1")
        batch = _mapped_batch(mapped)
        batch.validate(full=True)  # it is fast for a file of any size
    except FileNotFoundError:
        raise _Unfit("does not exist") from None
    except PermissionError:
        raise _Unfit("may not be read by you") from None
    except (pa.ArrowException, OSError, ValueError, StopIteration, struct.error):
        raise _Unfit("is truncated or not an Arrow file") from None
    if any(column.null_count for column in batch.columns):
        raise _Unfit("has null rows")
    return batch


def _mapped_batch(mapped: pa.Buffer) -> pa.RecordBatch:
    """The first batch as views of the file, so that no declared size can take more memory than the file has.

    Reads message by message, because pyarrow's file reader decompresses before the file can be refused.
    """
    messages = pa.ipc.MessageReader.open_stream(mapped.slice(len(_MAGIC)))
    schema = pa.ipc.read_schema(messages.read_next_message())
    _check_schema(schema)
    message = messages.read_next_message()
    if message.type != "record batch" or _is_compressed(message.metadata):
        raise _Unfit("is compressed, so it cannot be mapped")
    batch = pa.ipc.read_record_batch(message, schema)
    first, last = mapped.address, mapped.address + mapped.size
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer]
    if any(buffer.address < first or buffer.address + buffer.size > last for buffer in buffers):
        raise _Unfit("is compressed, so it cannot be mapped")
    return batch


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a record batch's metadata names a codec, in the present field or in that of 2020.

    pyarrow does not tell, so this looks into the flatbuffer (Message.fbs of Arrow's format): a table begins with the
    distance to its vtable, and a vtable holds its own size and, from byte 4, the distance of each field or 0.
    """
    data = metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        entry = 4 + 2 * number
        if entry >= struct.unpack_from("<H", data, vtable)[0]:
            return 0
        distance: int = struct.unpack_from("<H", data, vtable + entry)[0]
        return table + distance if distance else 0

    message = struct.unpack_from("<I", data, 0)[0]
    header, custom_metadata = field(message, 2), field(message, 4)
    record_batch = header + struct.unpack_from("<I", data, header)[0]
    return bool(custom_metadata or field(record_batch, 3))


def _check_schema(schema: pa.Schema) -> None:
    if schema.names != ["image", "label"]:
        raise _Unfit(f"has the columns {', '.join(schema.names)}, expected image, label")
    image, label = schema.types
    if label != pa.int32():
        raise _Unfit(f"has labels of type {label}, expected int32")
    tensor = isinstance(image, pa.FixedShapeTensorType) and image.value_type == pa.uint8()
    in_order = tensor and image.permutation in (None, sorted(image.permutation or []))
    if not in_order or len(image.shape) not in (2, 3) or image.shape[2:] not in ([], [3]) or min(image.shape) < 1:
        raise _Unfit(f"has images of type {image}, expected fixed_shape_tensor of uint8, [H, W] or [H, W, 3]")


def _about(batch: pa.RecordBatch) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """The metadata and the class offsets, checked against each other and the rows."""
    try:
        about = json.loads((batch.schema.metadata or {})[_KEY])
        written = about["format"]
        if written == FORMAT:
            _check(about, batch.num_rows)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise _Unfit("has no readable metafleet metadata") from None
    if written != FORMAT:
        raise _Unfit(f"is in format {written!r}, this version reads {FORMAT}")
    offsets = np.array(about["offsets"], dtype=np.int64)
    labels = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if not np.array_equal(batch.column("label").to_numpy(), labels):
        raise _Unfit("has rows that are not sorted by class as its offsets say")
    return about, offsets


def _check(about: Any, rows: int) -> None:
    """Raise where names, offsets and split sets of the metadata do not fit together or the number of rows."""
    names, offsets, splits = about["names"], about["offsets"], about["splits"]
    if not all(isinstance(text, str) for text in (*names, about["source"], about["content"])):
        raise _Unfit("has names or hashes that are not text")
    if not all(type(offset) is int for offset in offsets) or offsets[0] != 0 or offsets[-1] != rows:
        raise _Unfit(f"has class offsets that do not run from 0 to its {rows} rows")
    if len(names) != len(offsets) - 1 or any(low >= high for low, high in zip(offsets, offsets[1:], strict=False)):
        raise _Unfit("has class offsets that do not fit its class names")
    if len(about["checksums"]) != len(names) or not all(type(one) is int for one in about["checksums"]):
        raise _Unfit("has checksums that do not fit its class names")
    for name, split_set in splits.items():
        listed = [index for indices in split_set.values() for index in indices]
        if not set(split_set) <= set(get_args(Split)) or not all(split_set.values()):
            raise _Unfit(f"has an empty or unknown split in {name!r}")
        known = all(type(index) is int and 0 <= index < len(names) for index in listed)
        if not known or len(set(listed)) != len(listed):
            raise _Unfit(f"has a split set {name!r} with a class that is twice in it or does not exist")


def _content(images: Pixels, described: Mapping[str, Any]) -> str:
    """The sha256 of the content, independent of Arrow's layout."""
    digest = hashlib.sha256(json.dumps([_CONTENT, images.shape, described], sort_keys=True).encode())
    digest.update(images.data)
    return digest.hexdigest()
