"""Search spaces: a cell whose edges each carry one op of a few. The cell is named, or open to be searched.

Liu, Simonyan, Yang: DARTS, Differentiable Architecture Search, arXiv 1806.09055, eq. 2: an open edge gives the sum of
all ops, weighted by a softmax of logits. The logits are the architecture, which a searching algorithm keeps in a group
of theta of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.failures import ConfigError
from pipeline.core.types import MetaParams, Params
from pipeline.nets.net import Net

ARCH = "arch"
"""The group of theta that holds the architecture, and how the names of its leaves begin."""
SHARES = "shares/"
"""How the names of the shares of ops begin, which join the weights of a forward pass."""
DEVIATION = 1e-3
"""Logits start as N(0, 0.001²), as in the authors' code: equal but for what tells edges apart."""
EDGES = 2


class SearchSpace(Net):
    """A network of cells with two edges. ``config.cell`` names the op of each edge, or is None: the cell is open.

    An open cell's forward pass reads the shares of the ops on an edge, ``shares/edge0`` and ``shares/edge1``, among the
    parameters; ``shares`` and ``strongest`` make them from logits.
    """

    ops: ClassVar[tuple[str, ...]]
    """The ops of an edge, in the order of its logits."""
    cell: tuple[str, ...] | None

    @property
    def is_open(self) -> bool:
        """Whether the cell is to be searched."""
        return self.cell is None

    @abstractmethod
    def init_weights(self, rng: np.random.Generator) -> Params:
        """Fresh leaves of all ops that the cell may use, and of the rest of the network."""

    def init_architecture(self, rng: np.random.Generator) -> Params:
        """Fresh logits [ops] of each edge."""
        shape = (EDGES, len(self.ops))
        return architecture(torch.from_numpy(rng.normal(0.0, DEVIATION, shape)))

    def init(self, rng: np.random.Generator) -> Params:
        """Raises ``ConfigError`` where the cell is open: whoever asks for weights alone searches none."""
        if self.is_open:
            raise ConfigError(
                f"net.cell: null leaves the cell open, and this algorithm searches none; name {EDGES} of "
                f"{', '.join(self.ops)}, or take an algorithm that searches"
            )
        return self.init_weights(rng)

    def used(self) -> tuple[tuple[int, str], ...]:
        """Each edge with each op that it may use."""
        named = [self.ops if self.cell is None else (self.cell[edge],) for edge in range(EDGES)]
        return tuple((edge, op) for edge in range(EDGES) for op in named[edge])

    def along(self, edge: int, params: Params, op: Callable[[str], Tensor]) -> Tensor:
        """An edge's output: that of the named op, or the sum of all ops by their shares."""
        if self.cell is not None:
            return op(self.cell[edge])
        shares = params[f"{SHARES}edge{edge}"]
        return torch.stack([shares[number] * op(name) for number, name in enumerate(self.ops)]).sum(0)

    def choices(self, params: Params) -> dict[str, Tensor]:
        """Metrics ``edge0/OP``: 1 for the op with the largest share on an edge and 0 for others, so that their means
        over tasks are the shares of tasks that chose it."""
        found: dict[str, Tensor] = {}
        for edge in range(EDGES):
            one_hot = _largest(params[f"{SHARES}edge{edge}"])
            found |= {f"edge{edge}/{name}": one_hot[number] for number, name in enumerate(self.ops)}
        return found


def architecture(logits: Tensor) -> Params:
    """The leaves of logits [edges, ops]."""
    return {f"{ARCH}/edge{edge}": row for edge, row in enumerate(logits)}


def shares(params: Params, temperature: float = 1.0) -> Params:
    """softmax(logits / temperature) of each edge: near 0 the largest logit's op has all. Other leaves are left out."""
    return {
        SHARES + name.removeprefix(f"{ARCH}/"): torch.softmax(row / temperature, -1)
        for name, row in params.items()
        if name.startswith(f"{ARCH}/")
    }


def strongest(params: Params) -> Params:
    """Shares of 1 for the op with the largest share on each edge, and 0 for the others."""
    return {name: _largest(row) for name, row in params.items() if name.startswith(SHARES)}


def cell_of(net: Any, params: Params) -> tuple[str, ...]:
    """The op with the largest share on each edge, or the cell that is named. Not for use under ``vmap``.

    Raises:
        ConfigError: the network is no search space.
    """
    if not isinstance(net, SearchSpace):
        raise ConfigError(f"net.name: {type(net).__name__} has no cell; function_cells and image_cells have one")
    if net.cell is not None:
        return net.cell
    return tuple(net.ops[int(params[f"{SHARES}edge{edge}"].argmax())] for edge in range(EDGES))


def is_open(net: Any) -> bool:
    """Whether a network has an architecture to be searched."""
    return isinstance(net, SearchSpace) and net.is_open


def first_groups(net: Any, rng: np.random.Generator) -> MetaParams:
    """The group ``model``, and of an open search space the group ``arch``; a group without leaves is left out."""
    model = net.init_weights(rng) if is_open(net) else net.init(rng)
    groups = {"model": model} | ({ARCH: net.init_architecture(rng)} if is_open(net) else {})
    return {group: leaves for group, leaves in groups.items() if leaves}


def _largest(row: Tensor) -> Tensor:
    return torch.eye(len(row), dtype=row.dtype, device=row.device)[row.argmax(-1)]
