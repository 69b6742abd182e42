"""The file of pairs: Arrow IPC, one record batch with its rows sorted by language, read through a memory map.

Columns are ``source`` and ``target`` (list of int32: ids of the file's own symbol tables, without end or padding).
Symbol tables, languages, split sets, checksums and the sentencepiece model are JSON in the schema's metadata under the
key ``metafleet``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.failures import DataError
from pipeline.tasks import arrowfile
from pipeline.tasks.arrowfile import SplitSet, Unfit, check_splits, split_lines

FORMAT = 1
JOINERS = ("", " ")
_COLUMN = pa.list_(pa.int32())

Symbols = Sequence[str]
Pair = tuple[Symbols, Symbols]
"""The symbols of a source and of its target; a text stands for its characters."""

Entry = tuple[str, Sequence[Pair], Sequence[Pair]]
"""A language's name, its support pairs and its query pairs."""


class Language(NamedTuple):
    """The rows [first, last) of a language; where ``query`` is empty, both sets of a task come from ``support``."""

    name: str
    support: tuple[int, int]
    query: tuple[int, int]


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length: row i is ``values[offsets[i] : offsets[i + 1]]``.

    Attributes:
        values: [symbols of all rows] int32, mapped and read-only.
        offsets: [rows + 1] int64.
    """

    values: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        """A view of one row, [its length]."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def checksum(self, first: int, last: int, before: int = 0) -> int:
        """The CRC-32 of the rows [first, last), begun with ``before``."""
        offsets = self.offsets[first : last + 1]
        crc = zlib.crc32(np.diff(offsets).astype("<i8").data, before)
        return zlib.crc32(self.values[offsets[0] : offsets[-1]].data, crc)


@dataclass(frozen=True)
class PairFile:
    """An open file of pairs.

    Attributes:
        source: The sources, ids of ``sources``.
        target: The targets, ids of ``targets``.
        sources: The symbols of sources; the position is the id.
        targets: The symbols of targets; the position is the id.
        languages: The rows of each language, in the order of the rows.
        splits: Set name -> split -> indices of languages.
        source_hash: The hash of what was ingested.
        content: The hash of all else, equal whenever the same input is ingested again.
        joiner: What joins a target's symbols into text where ``pieces`` is empty.
        pieces: A sentencepiece model whose decoder joins a target's symbols into text, or nothing.
        checksums: The CRC-32 of the rows of each language.
    """

    source: Ragged
    target: Ragged
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    languages: tuple[Language, ...]
    splits: Mapping[str, SplitSet]
    source_hash: str
    content: str
    joiner: str
    pieces: bytes
    checksums: Sequence[int]

    def is_whole(self, index: int) -> bool:
        """Whether the rows of a language have their checksum: a disk can lose bits silently."""
        return _checksum(self.source, self.target, self.languages[index]) == self.checksums[index]

    def rows(self, index: int) -> tuple[int, int]:
        """The rows [first, last) of a language, those of its query set included."""
        return self.languages[index].support[0], self.languages[index].query[1]

    def part(self, index: int) -> str:
        """What an error calls a language."""
        return f"the pairs of {self.languages[index].name!r}"

    def summary(self) -> str:
        """The summary that is printed: languages, pairs, symbols, the sizes of the splits and the content hash."""
        sizes = f"{len(self.languages)} languages, {len(self.source)} pairs"
        symbols = f"{len(self.sources)} source symbols, {len(self.targets)} target symbols"
        return "\n".join([f"{sizes}, {symbols}", *split_lines(self.splits), f"sha256 {self.content}"])


def write(
    path: Path,
    languages: Sequence[Entry],
    splits: Mapping[str, SplitSet],
    source_hash: str,
    *,
    joiner: str,
    pieces: bytes = b"",
) -> PairFile:
    """Write languages whole or not at all, and open the result.

    The symbol tables are sorted by code points. The same input gives the same file.

    Raises:
        DataError: a language or a text is empty, or the file cannot be written; nothing is left behind.
    """
    for name, support, query in languages:
        if not support:
            raise DataError(f"{path}: the language {name!r} has no support pairs; leave it out")
        if not all(source and target for source, target in chain(support, query)):
            raise DataError(f"{path}: the language {name!r} has a pair without symbols; leave it out")
    pairs = [pair for _, support, query in languages for pair in chain(support, query)]
    source, sources = _encoded(source for source, _ in pairs)
    target, targets = _encoded(target for _, target in pairs)
    rows = _rows(languages)
    told: dict[str, Any] = {"sources": sources, "targets": targets, "languages": rows, "splits": splits}
    told |= {"joiner": joiner, "pieces": base64.b64encode(pieces).decode()}
    hashes = {"source": source_hash, "content": _content(source, target, told)}
    about = {"format": FORMAT, **told, **hashes, "checksums": [_checksum(source, target, each) for each in rows]}
    arrowfile.write_batch(path, {"source": _column(source), "target": _column(target)}, about)
    return read(path)


def read(path: Path) -> PairFile:
    """Map a file into memory and check all but the rows' checksums, which ``is_whole`` checks.

    Raises:
        DataError: there is no such file, or it is not one of ours, or its parts do not fit together.
    """
    try:
        batch = arrowfile.only_batch(path, _check_schema)
        about = arrowfile.described(batch, FORMAT, _check)
        source, target = (_ragged(batch.column(name), len(about[f"{name}s"])) for name in ("source", "target"))
    except Unfit as reason:
        raise arrowfile.refused(path, reason) from None
    return PairFile(
        source,
        target,
        sources=tuple(about["sources"]),
        targets=tuple(about["targets"]),
        languages=tuple(Language(name, tuple(support), tuple(query)) for name, support, query in about["languages"]),
        splits=about["splits"],
        source_hash=about["source"],
        content=about["content"],
        joiner=about["joiner"],
        pieces=base64.b64decode(about["pieces"]),
        checksums=about["checksums"],
    )


def _encoded(rows: Iterable[Symbols]) -> tuple[Ragged, list[str]]:
    """Rows of ids, and their table of symbols."""
    texts = list(rows)
    table = sorted(set(chain.from_iterable(texts)))
    ids = {symbol: index for index, symbol in enumerate(table)}
    values = np.fromiter(map(ids.__getitem__, chain.from_iterable(texts)), np.int32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return Ragged(values, offsets), table


def _rows(languages: Sequence[Entry]) -> list[Language]:
    rows, first = list[Language](), 0
    for name, support, query in languages:
        middle = first + len(support)
        last = middle + len(query)
        rows.append(Language(name, (first, middle), (middle, last)))
        first = last
    return rows


def _column(rows: Ragged) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), pa.array(rows.values), type=_COLUMN)


def _ragged(column: pa.Array, symbols: int) -> Ragged:
    """The rows of a column as views of the file, checked against the number of symbols."""
    if column.values.null_count:
        raise Unfit("has null symbols")
    rows = Ragged(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64))
    if len(rows) and np.diff(rows.offsets).min() < 1:
        raise Unfit("has a pair without symbols")
    if len(rows) and (rows.values.min() < 0 or rows.values.max() >= symbols):
        raise Unfit(f"has an id that its table of {symbols} symbols lacks")
    return rows


def _checksum(source: Ragged, target: Ragged, language: Language) -> int:
    first, last = language.support[0], language.query[1]
    return target.checksum(first, last, before=source.checksum(first, last))


def _check_schema(schema: pa.Schema) -> None:
    if schema.names != ["source", "target"]:
        raise Unfit(f"has the columns {', '.join(schema.names)}, expected source, target")
    if schema.types != [_COLUMN, _COLUMN]:
        raise Unfit(f"has columns of types {schema.types[0]} and {schema.types[1]}, expected list<item: int32>")


def _check(about: Any, rows: int) -> None:
    """Raise where the parts of the metadata do not fit together or the number of rows."""
    names = [name for name, _, _ in about["languages"]]
    texts = (*about["sources"], *about["targets"], *names, *(about[key] for key in ("source", "content", "pieces")))
    if not all(isinstance(text, str) for text in texts):
        raise Unfit("has symbols, names or hashes that are not text")
    for key in ("sources", "targets"):
        if len(set(about[key])) != len(about[key]):
            raise Unfit(f"has a symbol twice in its table {key}")
    if about["joiner"] not in JOINERS:
        raise Unfit(f"has the joiner {about['joiner']!r}, expected '' or ' '")
    base64.b64decode(about["pieces"], validate=True)
    end = 0
    for _, (first, middle), (again, last) in about["languages"]:
        if not all(type(row) is int for row in (first, middle, again, last)):
            raise Unfit("has languages whose rows are not numbers")
        if first != end or not first < middle == again <= last:
            raise Unfit("has languages whose rows do not follow one another")
        end = last
    if end != rows or len(set(names)) != len(names):
        raise Unfit(f"has languages that are twice in it or do not fit its {rows} rows")
    if len(about["checksums"]) != len(names) or not all(type(one) is int for one in about["checksums"]):
        raise Unfit("has checksums that do not fit its languages")
    check_splits(about["splits"], len(names), "language")


def _content(source: Ragged, target: Ragged, told: Mapping[str, Any]) -> str:
    """The sha256 of the content, independent of Arrow's layout."""
    digest = hashlib.sha256(json.dumps([FORMAT, told], sort_keys=True).encode())
    for rows in (source, target):
        digest.update(rows.offsets.astype("<i8").data)
        digest.update(rows.values.astype("<i4").data)
    return digest.hexdigest()
