"""How the contract compares: to the bit, or to float64's rounding; and what the global generators are up to."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.types import Params

CLOSE = 1e-10
"""Two ways to compute the same thing in float64 differ by less than this, relative to its size."""


def seed_globals(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def global_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), kind, np.asarray(keys).tobytes(), *rest, random.getstate()


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def norm(leaves: Params) -> float:
    return math.sqrt(sum(leaf.square().sum().item() for leaf in leaves.values()))


def _leaves(tree: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(tree):
        yield (
            (leaf.shape, leaf.dtype, leaf.detach().numpy().tobytes())
            if isinstance(leaf, Tensor)
            else (leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf)
        )


def assert_same_bits(a: Any, b: Any, what: str) -> None:
    assert pytree.tree_structure(a) == pytree.tree_structure(b), f"{what} differ in structure"
    assert list(_leaves(a)) == list(_leaves(b)), f"{what} differ"


def assert_close(a: Tensor, b: Tensor, what: str, scale: float = 0.0) -> None:
    assert a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)}"
    off = (a - b).abs().max().item()
    limit = CLOSE * max(b.abs().max().item(), scale, 1e-300)
    assert off <= limit, f"{what}: off by {off:.2e}, allowed {limit:.2e}"
