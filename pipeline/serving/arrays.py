"""What users hand to a served model, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.failures import DataError


def numbers(values: Any, name: str, expected: str) -> np.ndarray:
    """Finite numbers of any shape but (). Raises ``DataError``, which ends in ``expected``."""
    try:
        array = np.asarray(_on_cpu(values))
    except ValueError as error:
        raise DataError(f"{name}: rows of unequal shape ({error}); {expected}") from error
    if values is None or array.shape == ():
        raise DataError(f"{name}: shape {array.shape}, {expected}")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or not np.isfinite(array).all():
        raise DataError(f"{name}: expected finite numbers, found dtype {array.dtype} or values that are not finite")
    return array


def shaped(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Finite numbers of this shape as float64. Raises ``DataError``."""
    array = numbers(values, name, f"expected the shape {shape}")
    if array.shape != shape:
        raise DataError(f"{name}: shape {array.shape}, expected {shape}")
    return array.astype(np.float64)


def _on_cpu(values: Any) -> Any:
    """A tensor as numpy takes it: without its gradient, on the CPU, and of a dtype that numpy has."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return values.float() if values.dtype == torch.bfloat16 else values
