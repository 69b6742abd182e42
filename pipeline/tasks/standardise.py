"""The preparation of a table: every column less its mean, over its deviation, as fitted on the training classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.failures import DataError

KIND = "table"

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Standardise:
    """The columns of a table in their order, and the mean and the scale of each.

    >>> import numpy as np
    >>> fitted = Standardise.fit(["length", "width"], np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> fitted.prepare([[2.0, 6.0]], "x").tolist()
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

    def takes(self, values: Any) -> bool:
        """Whether these are raw rows, which rows of a table always are."""
        return True

    def prepare(self, values: Any, name: str) -> Features:
        """N raw rows, each of numbers or a mapping of columns to numbers, as float32 [N, columns].

        Raises:
            DataError: they have other columns, no numbers, or numbers that are too large for float32.
        """
        raw = self._numbers(values, name)
        with np.errstate(over="ignore", invalid="ignore"):
            prepared: Features = ((raw - self.mean) / self.scale).astype(np.float32)
        unfit = np.argwhere(~np.isfinite(prepared))
        if len(unfit):
            row, column = unfit[0].tolist()
            raise DataError(
                f"{name}: column {self.columns[column]!r}, row {row + 1}: {raw[row, column]:g} is no number, or too "
                f"large beside the column's deviation of {self.scale[column]:g}; leave the column out, or mend it"
            )
        return prepared

    def _numbers(self, values: Any, name: str) -> npt.NDArray[np.float64]:
        expected = f"expected rows of {len(self.columns)} numbers: {shortened(self.columns)}"
        try:
            rows = [self._row(one) for one in values] if isinstance(values, list | tuple) else values
            raw = np.asarray(rows, dtype=np.float64)
        except (ValueError, TypeError):
            raise DataError(f"{name}: rows that are no numbers, or of unequal length; {expected}") from None
        except KeyError as missing:
            raise DataError(f"{name}: a row without the column {missing}; {expected}") from None
        if raw.ndim != 2 or raw.shape[1] != len(self.columns):
            raise DataError(f"{name}: shape {raw.shape}; {expected}")
        return raw

    def _row(self, one: Any) -> Any:
        return [one[column] for column in self.columns] if isinstance(one, Mapping) else one

    def saved(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {"kind": KIND, "columns": list(self.columns), "mean": list(self.mean), "scale": list(self.scale)}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Standardise:
        """What ``saved`` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else, or of a newer version.
        """
        made = cls(list(saved["columns"]), list(saved["mean"]), list(saved["scale"]))
        numbers = np.array([made.mean, made.scale], dtype=np.float64)
        if not all(isinstance(name, str) for name in made.columns) or numbers.shape != (2, len(made.columns)):
            raise ValueError("columns, means and scales of unequal number")
        if not np.isfinite(numbers).all() or not (numbers[1] > 0).all() or made.saved() != dict(saved):
            raise ValueError("a scale that is not above 0, or an unknown field; it may be of a newer version")
        return made


def shortened(columns: Sequence[str]) -> str:
    """The first names of columns, as errors list them."""
    return ", ".join(columns[:5]) + (", …" if len(columns) > 5 else "")
