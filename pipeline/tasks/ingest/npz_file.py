"""Arrays that numpy saved together: ``x``, ``y`` and perhaps ``split``. Nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.failures import DataError
from pipeline.tasks.ingest.columns import SPLIT, Columns, columns_of
from pipeline.tasks.ingest.links import open_file
from pipeline.tasks.ingest.options import TableOptions

INPUTS, LABELS = "x", "y"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays ``x``, ``y`` and perhaps ``split`` of a file.

    Raises:
        DataError: it is no such file, an array is missing or holds Python objects, or their lengths differ.
    """
    arrays = {}
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as saved:
            for name in (INPUTS, LABELS, SPLIT):
                if f"{name}.npy" in saved.namelist():
                    arrays[name] = _array(path, saved, name)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, MemoryError, RuntimeError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read as .npz ({why}); expected a file of numpy.savez") from None
    for name in (INPUTS, LABELS):
        if name not in arrays:
            raise DataError(f"{path}: has no array {name!r}; expected {INPUTS} [N, F] and {LABELS} [N]")
    for name in arrays.keys() - {INPUTS}:
        if arrays[name].shape != arrays[INPUTS].shape[:1]:
            raise DataError(
                f"{path}: {name} has the shape {arrays[name].shape} beside {INPUTS} of {arrays[INPUTS].shape}; "
                f"expected {arrays[INPUTS].shape[:1]}"
            )
    return arrays


def read_npz(path: Path, options: TableOptions) -> Columns:
    """The rows of ``x`` [N, F] as columns ``x[0]``, ``x[1]`` and so on, labelled by ``y``.

    Raises:
        DataError: as ``read_arrays``; or ``x`` is no table.
    """
    arrays = read_arrays(path)
    x = arrays.pop(INPUTS)
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.number):
        raise DataError(f"{path}: {INPUTS} is {x.dtype} of shape {x.shape}; expected numbers [N, F]")
    columns = {INPUTS: pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float64).ravel()), max(x.shape[1], 1))}
    columns |= {name: pa.array(array.tolist()) for name, array in arrays.items()}
    return columns_of(pa.table(columns), path, LABELS, options.leave_out)


def _array(path: Path, saved: zipfile.ZipFile, name: str) -> np.ndarray:
    with saved.open(f"{name}.npy") as member:
        try:
            return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        except ValueError as error:
            if "pickle" not in str(error):
                raise
    raise DataError(
        f"{path}: the array {name!r} holds Python objects, which are not read because they may run code; save it as "
        "numbers or text, for example with .astype(str)"
    )
