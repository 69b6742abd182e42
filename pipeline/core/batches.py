"""Which examples of a support set each inner step sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.types import PADDING, Pairs, Sets


def batches(rng: np.random.Generator, rows: int, steps: int, batch: int) -> Tensor:
    """Row numbers [steps, batch] from consecutive shuffles of all ``rows``; each shuffle is used up before the next."""
    size = min(batch, rows)
    shuffles = -(-steps * size // rows)
    order = np.concatenate([rng.permutation(rows) for _ in range(shuffles)])
    return torch.from_numpy(order[: steps * size].reshape(steps, size))


def examples(data: Any) -> int:
    """How many examples a set has. Pairs that are padding alone, which come last, are none."""
    return int((data.target[:, 0] != PADDING).sum()) if isinstance(data, Pairs) else len(data.y)


def take(data: Any, rows: Tensor) -> Any:
    """These rows of a set of examples."""
    return type(data)(*(part[rows] for part in data))


def in_order(rows: int, batch: int) -> Tensor:
    """Row numbers [steps, batch] of consecutive mini-batches.

    Raises:
        ConfigError: ``batch`` does not divide ``rows``.
    """
    if rows % batch:
        raise ConfigError(
            f"algorithm.inner_batch: {batch}, and a stream has {rows} examples; take a divisor of that, so that each "
            "example is seen"
        )
    return torch.arange(rows).reshape(-1, batch)


def rows_of_sets(support: Sets) -> Tensor:
    """Row numbers [sets, examples] of each support set, in the order in which the sets come."""
    return support.number.argsort(stable=True).reshape(int(support.number.max()) + 1, -1)


def part_ends(steps: int, parts: int) -> tuple[int, ...]:
    """How many of a stream's steps are taken when each of its equal parts is over; a step over two parts ends with
    the second."""
    return tuple(steps * part // parts for part in range(1, parts + 1))


def reservoir(rng: np.random.Generator, order: Tensor, size: int, replayed: int) -> Tensor:
    """Row numbers [steps, replayed] from a memory of ``size`` rows, drawn at each step with replacement.

    The memory is a uniform sample of the rows of earlier steps, kept by Vitter's algorithm R (1985). At the first step
    it is empty, and the step's own rows are drawn.

    Args:
        rng: draws both.
        order: row numbers [steps, batch] of the stream.
        size: the rows that the memory holds.
        replayed: rows of each step.
    """
    kept: list[int] = []
    seen, drawn = 0, []
    for rows in order.tolist():
        drawn.append(rng.choice(kept or rows, replayed))
        for row in rows:
            place = int(rng.integers(seen + 1)) if seen >= size else seen
            if place < size:
                kept[place : place + 1] = [row]
            seen += 1
    return torch.from_numpy(np.stack(drawn))
