"""A CSV file as columns of numbers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from pipeline.core.failures import DataError
from pipeline.tasks.ingest.columns import SPLIT, Columns, check_names, columns_of
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.ingest.options import TableOptions

MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "?"]
"""What stands for a missing number. In a column of labels only the empty text does: NA is a country."""


def read_csv(path: Path, options: TableOptions) -> Columns:
    """The columns of a CSV file with a header; tabs separate them where the name ends in ``.tsv``.

    Raises:
        DataError: it cannot be read, or a value is no number.
    """
    names = _read(path, {}, rows=False).column_names
    check_names(names, path, options.label, options.leave_out)
    texts = {options.label, SPLIT, *options.leave_out} & set(names)
    kinds = {name: pa.string() if name in texts else pa.float64() for name in names}
    try:
        table = _read(path, kinds)
    except pa.ArrowInvalid as error:
        words = _read(path, dict.fromkeys(names, pa.string()))
        raise DataError(f"{path}: {_first_word(words, texts, error)}") from None
    return columns_of(table, path, options.label, options.leave_out)


def _read(path: Path, kinds: dict[str, pa.DataType], *, rows: bool = True) -> pa.Table:
    """The table with these types of columns, or its names alone. Raises ``ArrowInvalid`` where a value has another."""
    try:
        with open_file(path) as file:
            reader = csv.open_csv if not rows else csv.read_csv
            read = reader(
                pa.PythonFile(file, mode="r"),
                parse_options=csv.ParseOptions(
                    delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
                ),
                convert_options=csv.ConvertOptions(column_types=kinds, null_values=MISSING),
            )
            return read if rows else pa.Table.from_batches([], read.schema)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pa.ArrowInvalid as error:
        if rows and "conversion error" in str(error) and "UTF8" not in str(error):
            raise
        if "UTF8" in str(error):
            raise DataError(f"{path}: is not in UTF-8; save it as UTF-8") from None
        raise DataError(f"{path}: is no CSV file with a header ({' '.join(str(error).split())[:200]})") from None


def _first_word(table: pa.Table, texts: set[str], error: pa.ArrowInvalid) -> str:
    """Where the first value stands that is no number."""
    for name in table.column_names:
        if name in texts:
            continue
        for row, value in enumerate(table.column(name).to_pylist(), 1):
            try:
                float(value if value not in MISSING else 0)
            except ValueError:
                return f"column {name!r}, row {row}: {value!r} is no number; mend it, or use --leave-out {name}"
    return " ".join(str(error).split())
