"""Columns of numbers, labels and splits out of an Arrow table, or one line that names the column and the row."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.failures import ConfigError, DataError
from pipeline.tasks.ingest.wording import shown

SPLIT = "split"
"""The column that says which split a row's class belongs to."""

Numbers = npt.NDArray[np.float64]


class Columns(NamedTuple):
    """Rows of numbers [N, F] with the name of each column, the label of each row and, where it is said, its split."""

    rows: Numbers
    names: list[str]
    labels: list[str]
    splits: list[str] | None


def columns_of(table: pa.Table, place: object, label: str, leave_out: Collection[str]) -> Columns:
    """Every column but the label, the split and those to ``leave_out`` as numbers.

    Raises:
        ConfigError: there is no column of a name that was given.
        DataError: a column holds no numbers, values are missing, or two columns have one name.
    """
    names = table.column_names
    check_names(names, place, label, leave_out)
    if not table.num_rows:
        raise DataError(f"{place}: no rows")
    features = [name for name in names if name not in (label, SPLIT, *leave_out)]
    if not features:
        raise DataError(f"{place}: no column beside the label; expected columns of numbers")
    parts = [_numbers(table.column(name), name, place) for name in features]
    _refuse_missing(parts, place)
    labels = texts_of(table.column(label), label, place)
    splits = texts_of(table.column(SPLIT), SPLIT, place) if SPLIT in names and SPLIT not in leave_out else None
    wide = [name for name, part in parts for name in _wide(name, part)]
    return Columns(np.concatenate([part.reshape(len(part), -1) for _, part in parts], axis=1), wide, labels, splits)


def check_names(names: list[str], place: object, label: str, leave_out: Collection[str]) -> None:
    """Raise ``ConfigError`` where there is no column of a name that was given, ``DataError`` where two have one."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{place}: two columns are named {twice[0]!r}; rename one")
    for option, name in (("--label", label), *(("--leave-out", one) for one in leave_out)):
        if name not in names:
            raise ConfigError(f"{option}: {place} has no column {name!r}{_nearest(name, names)}")


def _wide(name: str, part: Numbers) -> list[str]:
    """The names of the numbers that a column gives."""
    return [name] if part.ndim == 1 else [f"{name}[{at}]" for at in range(part.shape[1])]


def texts_of(column: pa.ChunkedArray, name: str, place: object) -> list[str]:
    """A column of labels as text. Whole numbers, text and truth values are labels.

    Raises:
        DataError: it holds something else, or some are missing.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or _is_text(kind)):
        raise DataError(f"{place}: column {name!r} holds {kind}; expected labels that are text or whole numbers")
    texts: list[Any] = column.cast(kind).cast(pa.string()).to_pylist()
    bare = [row for row, text in enumerate(texts, 1) if not text]
    if bare:
        raise DataError(f"{place}: column {name!r} is empty in {len(bare)} rows, first in row {bare[0]}; fill them")
    return texts


def _numbers(column: pa.ChunkedArray, name: str, place: object) -> tuple[str, Numbers]:
    """A column as float64 [N], or [N, width] of a column of lists; NaN where a value is missing."""
    kind, rows = column.type, len(column)
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = kind.storage_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return name, _lists(column, name, place)
    if not _is_number(kind):
        pictures = f"read pictures with `python -m jobs.ingest hf PATH --image {name}`, or "
        fix = f"{pictures if pa.types.is_struct(kind) else ''}use --leave-out {name}"
        raise DataError(f"{place}: column {name!r} holds {kind}, expected numbers; {fix}")
    values = column.cast(pa.float64(), safe=False)
    filled: Numbers = pc.fill_null(values, float("nan")).to_numpy().reshape(rows)
    return name, filled


def _lists(column: pa.ChunkedArray, name: str, place: object) -> Numbers:
    inner = column.type.value_type
    if not _is_number(inner):
        raise DataError(f"{place}: column {name!r} holds lists of {inner}, expected numbers; use --leave-out {name}")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    known = lengths[~np.isnan(lengths.astype(float))].astype(int)
    if len(set(known.tolist())) > 1:
        row = int(np.flatnonzero(lengths != known[0])[0])
        raise DataError(
            f"{place}: column {name!r} holds lists of unequal length: {known[0]} in row 1 and {lengths[row]:g} in row "
            f"{row + 1}; expected the same in all rows"
        )
    width = int(known[0]) if len(known) else 0
    if not width:
        raise DataError(f"{place}: column {name!r} holds empty lists; use --leave-out {name}")
    rows = np.full((len(column), width), np.nan)
    values = pc.fill_null(pc.list_flatten(column).cast(pa.float64(), safe=False), float("nan"))
    rows[pc.is_valid(column).to_numpy()] = values.to_numpy().reshape(-1, width)
    return rows


def _refuse_missing(parts: list[tuple[str, Numbers]], place: object) -> None:
    """Raise ``DataError`` with the number of values that are missing or not finite, and where the first one is."""
    found = dict(_missing(parts))
    if not found:
        return
    name, (_, row) = min(found.items(), key=lambda one: one[1][1])
    raise DataError(
        f"{place}: {sum(count for count, _ in found.values())} values are missing or not finite, in {len(found)} "
        f"columns; the first is column {shown(name)!r}, row {row}; fill them, or leave the column out with "
        f"--leave-out {name}"
    )


def _missing(parts: list[tuple[str, Numbers]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each column with values that are missing: how many, and the first row."""
    for name, part in parts:
        odd = ~np.isfinite(part)
        if odd.any():
            rows = odd if odd.ndim == 1 else odd.any(1)
            yield name, (int(odd.sum()), int(np.flatnonzero(rows)[0]) + 1)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
