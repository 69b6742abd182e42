"""Files of our own in Arrow IPC: one record batch, read through a memory map, with JSON under the key ``metafleet``."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import pyarrow as pa

from pipeline.core.failures import DataError
from pipeline.core.seeding import Split
from pipeline.storage.local import write_whole

SplitSet = Mapping[Split, Sequence[int]]
"""Split -> the indices of its classes or languages; none is in two."""

_KEY, _MAGIC = b"metafleet", b"ARROW1\0\0"


class Unfit(Exception):
    """Why a file is refused, as the end of a sentence that begins with its path."""


def only_batch(path: Path, check_schema: Callable[[pa.Schema], object]) -> pa.RecordBatch:
    """The one record batch of a file, as views of its mapped pages, after ``check_schema`` has let its schema pass.

    Raises:
        Unfit: there is no such file, or it is damaged, compressed or not an Arrow file.
    """
    try:
        mapped = pa.memory_map(str(path)).read_buffer()
        footer = pa.ipc.open_file(mapped)
        check_schema(footer.schema)
        if footer.num_record_batches != 1:
            raise Unfit(f"has {footer.num_record_batches} record batches, expected 1")
        batch = _mapped_batch(mapped, check_schema)
        batch.validate(full=True)  # it is fast for a file of any size
    except FileNotFoundError:
        raise Unfit("does not exist") from None
    except PermissionError:
        raise Unfit("may not be read by you") from None
    except (pa.ArrowException, OSError, ValueError, StopIteration, struct.error):
        raise Unfit("is truncated or not an Arrow file") from None
    if any(column.null_count for column in batch.columns):
        raise Unfit("has null rows")
    return batch


def described(batch: pa.RecordBatch, expected: int, check: Callable[[Any, int], object]) -> dict[str, Any]:
    """The JSON of a batch, after ``check`` has let it and the number of rows pass.

    Raises:
        Unfit: there is none, or its parts are missing or of wrong types, or its ``format`` is not ``expected``.
    """
    try:
        about: dict[str, Any] = json.loads((batch.schema.metadata or {})[_KEY])
        written = about["format"]
        if written == expected:
            check(about, batch.num_rows)
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        raise Unfit("has no readable metafleet metadata") from None
    if written != expected:
        raise Unfit(f"is in format {written!r}, this version reads {expected}")
    return about


def check_splits(splits: Mapping[str, SplitSet], count: int, what: str) -> None:
    """Raise ``Unfit`` where a split set has an unknown or empty split, or an index twice or not below ``count``."""
    for name, split_set in splits.items():
        listed = [index for indices in split_set.values() for index in indices]
        if not set(split_set) <= set(get_args(Split)) or not all(split_set.values()):
            raise Unfit(f"has an empty or unknown split in {name!r}")
        known = all(type(index) is int and 0 <= index < count for index in listed)
        if not known or len(set(listed)) != len(listed):
            raise Unfit(f"has a split set {name!r} with a {what} that is twice in it or does not exist")


def split_lines(splits: Mapping[str, SplitSet]) -> list[str]:
    """A printed line for each split set: how many indices each of its splits has."""
    return [
        f"split {name}: " + ", ".join(f"{len(indices)} {split}" for split, indices in split_set.items())
        for name, split_set in splits.items()
    ]


def write_batch(path: Path, columns: Mapping[str, pa.Array], about: Mapping[str, Any]) -> None:
    """Write ``columns`` and the JSON ``about`` as one batch, whole or not at all.

    Raises:
        DataError: the file cannot be written; nothing is left behind.
    """
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    schema = pa.schema(fields, metadata={_KEY: json.dumps(about)})

    def fill(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, fill)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place with --to"
        ) from None


def refused(path: Path, reason: Unfit) -> DataError:
    return DataError(f"{path}: {reason}; make it again with `python -m jobs.ingest`")


def _mapped_batch(mapped: pa.Buffer, check_schema: Callable[[pa.Schema], object]) -> pa.RecordBatch:
    """The first batch as views of the file, so that no declared size can take more memory than the file has.

    Reads message by message, because pyarrow's file reader decompresses before the file can be refused.
    """
    messages = pa.ipc.MessageReader.open_stream(mapped.slice(len(_MAGIC)))
    schema = pa.ipc.read_schema(messages.read_next_message())
    check_schema(schema)
    message = messages.read_next_message()
    if message.type != "record batch" or _is_compressed(message.metadata):
        raise Unfit("is compressed, so it cannot be mapped")
    batch = pa.ipc.read_record_batch(message, schema)
    first, last = mapped.address, mapped.address + mapped.size
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer]
    if any(buffer.address < first or buffer.address + buffer.size > last for buffer in buffers):
        raise Unfit("is compressed, so it cannot be mapped")
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
