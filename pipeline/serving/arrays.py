"""What users hand to a served model, as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.failures import DataError

ROUNDING = 1e-6
"""How far beyond the training inputs' range a value may lie: arithmetic in float32 rounds."""


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


def check_bounds(array: np.ndarray, name: str, bounds: tuple[float, float] | None) -> None:
    """Raise ``DataError`` where a value is outside the range of the training inputs."""
    if bounds is None or not array.size:
        return
    (low, high), least, most = bounds, array.min(), array.max()
    if least < low - ROUNDING or most > high + ROUNDING:
        raise DataError(
            f"{name}: values from {least:g} to {most:g}, expected {low:g} to {high:g} as in training; scale them, or "
            "give pictures as files, PIL images or arrays of uint8, which are prepared as the training pictures were"
        )


def check_outputs(outputs: Tensor) -> Tensor:
    """The outputs. Raises ``DataError`` where one is not finite: it would be answered with the first label."""
    if not torch.isfinite(outputs).all():
        raise DataError(
            "x: the model's outputs are not finite; compare the values of support_x and x with those of training"
        )
    return outputs


def as_tensor(array: np.ndarray, dtype: torch.dtype, name: str) -> Tensor:
    """A copy in this dtype. Raises ``DataError`` where a value is too large for it."""
    tensor = torch.from_numpy(np.array(array)).to(dtype)
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise DataError(f"{name}: values up to {np.abs(array).max():g}, which are too large for {dtype}")
    return tensor


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
