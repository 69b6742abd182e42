"""A folder of the ``datasets`` library, as ``save_to_disk`` writes it or as the hub has it in Parquet files.

It is read with pyarrow alone. Pictures are unpacked to a folder for each class and ingested as such a folder is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split
from pipeline.tasks.ingest import folder, table
from pipeline.tasks.ingest.columns import SPLIT, columns_of, texts_of
from pipeline.tasks.ingest.folder import Ingested
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.ingest.options import Options, TableOptions
from pipeline.tasks.ingest.pictures import SUFFIXES
from pipeline.tasks.ingest.splits import SPELLINGS
from pipeline.tasks.ingest.table import IngestedTable
from pipeline.tasks.ingest.wording import some_of

_WHOLE = "all"
"""The name of the rows of a folder without parts."""
_PART = re.compile(r"(?:^|/)(train|training|valid|validation|val|dev|test|testing)(?:-\d+-of-\d+)?(?:\.parquet|/)")


class _Part(NamedTuple):
    """The rows of one of the folder's parts, and the names of the classes of its columns of ``ClassLabel``."""

    name: str
    rows: pa.Table
    classes: Mapping[str, list[str]]


def ingest_pictures(place: Path, to: Path, image: str, label: str, options: Options) -> Ingested:
    """Write the pictures of the column ``image`` to ``to``, with the splits of ``options`` or those of the folder.

    Raises:
        ConfigError: there is no such column, or an option is out of range.
        DataError: the folder is none of ``datasets``, or its parts share classes and ``options`` have no shares.
    """
    parts = _parts(place)
    owners = _owners(place, parts, label, shares=options.split is not None)
    with TemporaryDirectory(prefix="metafleet-") as unpacked:
        for part in parts:
            top = Path(unpacked, owners[part.name] or "")
            for row, (name, data, suffix) in enumerate(_pictures(place, part, image, label), 1):
                inside = top / name
                inside.mkdir(parents=True, exist_ok=True)
                (inside / f"{part.name}-{row:06}{suffix}").write_bytes(data)
        try:
            return folder.ingest(Path(unpacked), to, options)
        except DataError as error:
            raise DataError(str(error).replace(unpacked, str(place))) from None


def ingest_numbers(place: Path, to: Path, options: TableOptions) -> IngestedTable:
    """Write the columns of numbers to ``to``, as ``table.ingest`` does. Raises as it and ``ingest_pictures`` do."""
    parts = _parts(place)
    owners = _owners(place, parts, options.label, shares=options.split is not None)
    tables = []
    for part in parts:
        labels = pa.array(_labels(place, part, options.label))
        rows = part.rows.set_column(_index(place, part.rows, "--label", options.label), options.label, labels)
        split = owners[part.name]
        tables.append(rows if split is None else rows.append_column(SPLIT, pa.array([split] * len(labels))))
    rows = pa.concat_tables(tables)
    columns = columns_of(rows, place, options.label, options.leave_out)
    digest = hashlib.sha256(json.dumps([columns.names, columns.labels]).encode())
    digest.update(columns.rows.tobytes())
    return table.write_columns(columns, place, to, options, digest.hexdigest())


def _parts(place: Path) -> list[_Part]:
    if not place.is_dir():
        raise DataError(
            f"{place}: is no folder; expected one that datasets' save_to_disk wrote, or one of Parquet files"
        )
    try:
        if (place / "dataset_dict.json").exists():
            names = _json(place / "dataset_dict.json")["splits"]
            return [_saved(_within(place, name), name) for name in names]
        if (place / "state.json").exists():
            return [_saved(place, _WHOLE)]
        return _of_parquet(place)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{place}: cannot be read as a folder of datasets ({why}); save it again") from None


def _saved(place: Path, name: str) -> _Part:
    """One data set as ``save_to_disk`` wrote it: Arrow streams that ``state.json`` lists."""
    tables = []
    for listed in _json(place / "state.json")["_data_files"]:
        with open_file(_within(place, listed["filename"])) as file:
            tables.append(pa.ipc.open_stream(pa.PythonFile(file, mode="r")).read_all())
    return _Part(name, pa.concat_tables(tables), _classes(_json(place / "dataset_info.json").get("features") or {}))


def _of_parquet(place: Path) -> list[_Part]:
    """The Parquet files under a folder, whose names begin with their split, or lie in a folder named so."""
    found: dict[str, list[pa.Table]] = {}
    for path in sorted(place.rglob("*.parquet")):
        named = _PART.search(path.relative_to(place).as_posix())
        with open_file(path) as file:
            read = parquet.read_table(pa.PythonFile(file, mode="r"))
        found.setdefault(named[1] if named else _WHOLE, []).append(read)
    if not found:
        raise DataError(
            f"{place}: neither state.json nor dataset_dict.json, and no Parquet file; expected a folder that datasets' "
            "save_to_disk wrote, or one of Parquet files"
        )
    return [_Part(name, pa.concat_tables(tables), _hub_classes(tables[0].schema)) for name, tables in found.items()]


def _hub_classes(schema: pa.Schema) -> Mapping[str, list[str]]:
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return _classes(told.get("info", {}).get("features", {}))


def _classes(features: Mapping[str, Any]) -> Mapping[str, list[str]]:
    return {name: one["names"] for name, one in features.items() if isinstance(one, dict) and "names" in one}


def _json(path: Path) -> Any:
    with open_file(path) as file:
        return json.load(file)


def _within(place: Path, name: str) -> Path:
    """A file that a stranger's JSON names, which must lie in the folder itself."""
    if Path(name).name != name or name in (".", ".."):
        raise ValueError(f"{name!r} is no name of a file in it")
    return place / name


def _owners(place: Path, parts: list[_Part], label: str, *, shares: bool) -> dict[str, Split | None]:
    """Which split each part is; none of all where shares of the classes are drawn, or there is one part.

    Parts of ``datasets`` usually have all classes, and are the splits of another kind of learning.
    """
    if len(parts) == 1 or shares:
        return dict.fromkeys(part.name for part in parts)
    owners = {part.name: SPELLINGS.get(part.name) for part in parts}
    found = Counter(name for part in parts for name in set(_labels(place, part, label)))
    both = sorted(name for name, count in found.items() if count > 1)
    if both or not all(owners.values()):
        why = some_of(len(both), "class", both) if both else some_of(len(parts), "part", [part.name for part in parts])
        raise DataError(
            f"{place}: its parts {', '.join(owners)} are no splits by class ({why}); pass --split 0.64,0.16,0.20 to "
            "draw the splits out of the classes of all parts together"
        )
    return owners


def _labels(place: Path, part: _Part, label: str) -> list[str]:
    column = part.rows.column(_index(place, part.rows, "--label", label))
    texts, known = texts_of(column, label, place), part.classes.get(label)
    if known is None:
        return texts
    odd = [text for text in texts if not text.isdecimal() or int(text) >= len(known)]
    if odd:
        raise DataError(f"{place}: column {label!r} has the class {odd[0]}, and names for {len(known)}; save it again")
    return [known[int(text)] for text in texts]


def _pictures(place: Path, part: _Part, image: str, label: str) -> Iterator[tuple[str, bytes, str]]:
    """The class, the bytes and the suffix of each picture."""
    column = part.rows.column(_index(place, part.rows, "--image", image))
    labels = _labels(place, part, label)
    for row, (name, one) in enumerate(zip(labels, (one for chunk in column.chunks for one in chunk), strict=True), 1):
        told = one.as_py()
        data = told.get("bytes") if isinstance(told, dict) else told
        if not isinstance(data, bytes):
            raise DataError(
                f"{place}: column {image!r}, row {row} of {part.name}: {_what(told)}; expected a picture's bytes, as "
                "datasets' save_to_disk writes them for a column of Image"
            )
        suffix = Path(str(told.get("path") or "")).suffix.lower() if isinstance(told, dict) else ""
        yield _folder_name(place, name), data, suffix if suffix in SUFFIXES else SUFFIXES[0]


def _what(told: Any) -> str:
    if isinstance(told, dict):
        return "a path without bytes" if told.get("path") else "no picture"
    return "no picture" if told is None else type(told).__name__


def _index(place: Path, rows: pa.Table, option: str, name: str) -> int:
    if rows.column_names.count(name) != 1:
        raise ConfigError(f"{option}: {place} has no column {name!r}; it has {', '.join(rows.column_names)}")
    return int(rows.column_names.index(name))


def _folder_name(place: Path, name: str) -> str:
    """A class's name where it can name a folder that ingest does not skip."""
    if "/" in name or "\0" in name or name.startswith(".") or name in folder.JUNK or len(name.encode()) > 200:
        raise DataError(f"{place}: the class {name!r} cannot name a folder; rename it in the column of labels")
    return name
