"""A table of embeddings or other numbers, with a column of labels: CSV, Parquet or ``.npz``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Split
from pipeline.tasks import tablefile
from pipeline.tasks.ingest.columns import SPLIT, Columns, columns_of
from pipeline.tasks.ingest.copies import Copies
from pipeline.tasks.ingest.csv_file import read_csv
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.ingest.npz_file import read_npz
from pipeline.tasks.ingest.options import TableOptions
from pipeline.tasks.ingest.splits import SPELLINGS, check_shares, chosen, refuse_in_two
from pipeline.tasks.ingest.wording import shown, some_of
from pipeline.tasks.standardise import Standardise, shortened
from pipeline.tasks.tablefile import TableFile

GIVEN = "given"
"""The split set of a table with a column ``split``."""


class IngestedTable(NamedTuple):
    """The file, and a line for each thing that was left out or changed."""

    file: TableFile
    notes: list[str]


def ingest(path: Path, to: Path, options: TableOptions) -> IngestedTable:
    """Write the rows of a table to ``to``, with the split set ``random``, or ``given`` out of a column ``split``.

    Numbers are standardised by the mean and the deviation of the training classes' rows, or as in ``options.like``.

    Raises:
        ConfigError: an option is out of range, or the shares leave a split without a class.
        DataError: the file is no table of numbers, values are missing, or a class is in two splits.
    """
    check_shares(options)
    if options.min_rows < 1:
        raise ConfigError(f"--min-rows: {options.min_rows}; expected 1 or more")
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(f"{path}: expected a file that ends in {', '.join(READERS)}")
    try:
        with open_file(path) as file:
            source = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file that ends in {', '.join(READERS)}") from None
    return write_columns(read(path, options), path, to, options, source)


def write_columns(columns: Columns, place: Path, to: Path, options: TableOptions, source: str) -> IngestedTable:
    """Write rows to ``to``, sorted by class. ``source`` is the hash of what was read; errors begin with ``place``.

    Raises as ``ingest`` does.
    """
    sizes = Counter(columns.labels)
    names = sorted(name for name, size in sizes.items() if size >= options.min_rows)
    small = [f"{shown(name)} ({size})" for name, size in sorted(sizes.items()) if size < options.min_rows]
    if len(names) < 2:
        left = f" of {options.min_rows} rows or more" if small else ""
        found = "1 class" if names else "no class"
        raise DataError(f"{place}: {found}{left} in the column of labels; a task needs 2 or more")
    splits = chosen(place, names, _given(columns, place), options, GIVEN)
    labels = np.array(columns.labels, dtype=object)
    rows = [np.flatnonzero(labels == name) for name in names]
    copies = Copies("row")
    for name, of_class in zip(names, rows, strict=True):
        for row in of_class:
            copies.add(name, f"row {row + 1}", columns.rows[row])
    copies.refuse_in_two_splits(place, names, splits)
    (split_set,) = splits.values()
    training = [int(row) for index in split_set.get("train", []) for row in rows[index]]
    how, constant = _standardisation(columns, training, place, options.like)
    features = how.prepare(columns.rows[np.concatenate(rows)], str(place))
    file = tablefile.write(to, features, [len(of_class) for of_class in rows], names, splits, source, how)
    return IngestedTable(file, [*_notes(options, small), *constant, *copies.notes()])


def _standardisation(
    columns: Columns, training: list[int], place: Path, like: Path | None
) -> tuple[Standardise, list[str]]:
    """The standardisation, and a note for columns that say nothing."""
    if like is not None:
        how = tablefile.read(like).preparation
        if list(how.columns) != columns.names:
            raise DataError(
                f"{place}: has the columns {shortened(columns.names)}, and --like {like} has {shortened(how.columns)}; "
                "they must be the same, in the same order"
            )
        return how, [f"standardised as {like}"]
    if not training:
        raise DataError(
            f"{place}: no training classes to fit the standardisation on; pass --like FILE, the table that the run was "
            "trained on"
        )
    rows = columns.rows[training]
    same = [name for name, low, high in zip(columns.names, rows.min(0), rows.max(0), strict=True) if low == high]
    note = [f"constant in training: {some_of(len(same), 'column', same)}"] if same else []
    return Standardise.fit(columns.names, rows), note


def _given(columns: Columns, place: Path) -> dict[Split, list[str]] | None:
    """The classes of each split that the table names."""
    if columns.splits is None:
        return None
    odd = next((at for at, name in enumerate(columns.splits) if name.lower() not in SPELLINGS), None)
    if odd is not None:
        found = columns.splits[odd]
        raise DataError(f"{place}: column {SPLIT!r}, row {odd + 1}: {found!r}; expected train, val or test")
    pairs = dict.fromkeys(
        (name, SPELLINGS[split.lower()]) for name, split in zip(columns.labels, columns.splits, strict=True)
    )
    owner: dict[str, Split] = {}
    for name, split in pairs:
        refuse_in_two(place, [f"{name} in {owner[name]} and {split}"] if name in owner else [])
        owner[name] = split
    return {
        split: sorted(n for n, own in owner.items() if own == split)
        for split in dict.fromkeys(SPELLINGS.values())
        if split in owner.values()
    }


def _notes(options: TableOptions, small: list[str]) -> list[str]:
    return [
        *(f"left out: column {shown(name)}" for name in options.leave_out),
        *(f"left out, fewer than {options.min_rows} rows: class {name}" for name in small),
    ]


def _read_parquet(path: Path, options: TableOptions) -> Columns:
    try:
        with open_file(path) as file:
            table = parquet.read_table(pa.PythonFile(file, mode="r"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})") from None
    return columns_of(table, path, options.label, options.leave_out)


READERS: dict[str, Callable[[Path, TableOptions], Columns]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".npz": read_npz,
}
