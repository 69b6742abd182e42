"""Bounds of the numbers in a recipe, as types. No admitted value crashes a process or overflows float32.

They are far beyond useful values. A larger value is a mistake and is refused before the run starts.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

MAX_COUNT = 1 << 16
"""Of ways, shots, queries, examples of a batch and slots of a memory."""

Count = Annotated[int, Ge(1), Le(MAX_COUNT)]

Width = Annotated[int, Ge(1), Le(1 << 14)]
"""Units of a layer, a state or a slot: two such layers have 268 million weights between them."""

Heads = Annotated[int, Ge(1), Le(1 << 8)]
"""Of a memory's controller."""

InnerSteps = Annotated[int, Ge(1), Le(10_000)]
"""Of an inner loop or of a solver: most methods keep a graph of each."""

OuterSteps = Annotated[int, Gt(0), Le(10**9)]

Rate = Annotated[float, Gt(0), Le(1e6)]
"""A learning rate, or another positive factor."""

Divisor = Annotated[float, Ge(1e-6), Le(1e6)]
"""A divisor, or a value whose reciprocal is used."""

MAX_ARGUMENT = 1 << 53
"""Whole numbers up to this are the same as floats."""

Argument = (
    bool
    | Annotated[int, Ge(-MAX_ARGUMENT), Le(MAX_ARGUMENT)]
    | Annotated[float, Ge(-MAX_ARGUMENT), Le(MAX_ARGUMENT)]
    | str
)
"""What a recipe may hand to a function of a plug-in."""


def share_of_gpus(value: float) -> float:
    """GPUs as Ray counts them: ten-thousandths of one, or whole ones. Raises ``ValueError``."""
    if 0 < value < 1e-4 or (value > 1 and value != int(value)):
        raise ValueError("expected 0, a share of one GPU that is at least 0.0001, or a whole number of GPUs")
    return value
