"""The preparation of a table: every column less its mean, over its deviation, as fitted on the training classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.failures import DataError

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Standardise:
    """The columns of a table in their order, and the mean and the scale of each.

    >>> import numpy as np
    >>> fitted = Standardise.fit(["length", "width"], np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> fitted.apply(np.array([[2.0, 6.0]])).tolist()
    [[0.0, 1.0]]
    """

    columns: Sequence[str]
    mean: Sequence[float]
    scale: Sequence[float]

    @classmethod
    def fit(cls, columns: Sequence[str], rows: npt.NDArray[np.float64]) -> Standardise:
        """The means and deviations of these rows [N, columns]; a constant column keeps its unit."""
        mean, deviation = rows.mean(0), rows.std(0)
        return cls(list(columns), mean.tolist(), np.where(deviation > 0, deviation, 1.0).tolist())

    def apply(self, rows: Any) -> Features:
        """Raw rows [N, columns] as training has them, float32.

        Raises:
            DataError: they have another number of columns, or values that are too large for float32.
        """
        raw = np.asarray(rows, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != len(self.columns):
            raise DataError(f"rows of shape {raw.shape}; expected (N, {len(self.columns)}): {', '.join(self.columns)}")
        with np.errstate(over="ignore"):
            prepared: Features = ((raw - self.mean) / self.scale).astype(np.float32)
        unfit = np.argwhere(~np.isfinite(prepared))
        if len(unfit):
            row, column = unfit[0].tolist()
            raise DataError(
                f"column {self.columns[column]!r}, row {row + 1}: {raw[row, column]:g} is too large for its scale of "
                f"{self.scale[column]:g}; leave the column out, or mend its values"
            )
        return prepared

    def saved(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"columns": list(self.columns), "mean": list(self.mean), "scale": list(self.scale)}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Standardise:
        """What ``saved`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        columns, mean, scale = saved["columns"], saved["mean"], saved["scale"]
        numbers = np.array([mean, scale], dtype=np.float64)
        if not all(isinstance(name, str) for name in columns) or numbers.shape != (2, len(columns)):
            raise ValueError("columns, means and scales of unequal number")
        if not np.isfinite(numbers).all() or not (numbers[1] > 0).all():
            raise ValueError("a scale that is not above 0")
        return cls(list(columns), numbers[0].tolist(), numbers[1].tolist())
