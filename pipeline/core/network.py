"""The interface of a network for algorithms: forward passes as functions of parameters, under a normalisation mode."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from pipeline.core.types import Params, Phase

HEAD = "head/"
"""How the names of the last layer's leaves begin."""
DROPOUT = "dropout/"
"""How the names of dropout masks begin. Masks join the parameters of a forward pass."""
INNER = "inner_"
"""What stands before the name of a mask that has a row for each inner step."""


class Adapted(NamedTuple):
    """A network's weights after a support set, and what its normalisation must know of that set.

    ``conditioning`` holds moments, the support inputs, or nothing, as the mode says.
    """

    phi: Params
    conditioning: Params


class Network(Protocol):
    """A network under a normalisation mode. It holds shapes, never weights."""

    mode: Any
    net: Any
    input_shape: tuple[int, ...]

    def init(self, rng: np.random.Generator) -> Params:
        """Fresh leaves."""
        ...

    def body(self) -> Any:
        """The same network without its head: its outputs are the features."""
        ...

    def draw(self, rng: np.random.Generator, rows: int, phase: Phase) -> Params:
        """A task's dropout masks for at most ``rows`` examples."""
        ...

    def draw_inner(self, rng: np.random.Generator, rows: int, steps: int) -> Params:
        """The dropout masks of each of ``steps`` inner steps at evaluation, for at most ``rows`` examples."""
        ...

    def masks(self, noise: Params) -> Params:
        """The dropout masks among a task's random tensors."""
        ...

    def inner_masks(self, noise: Params, j: int) -> Params:
        """The dropout masks of inner step j among a task's random tensors."""
        ...

    def running(self, params: Params) -> Params:
        """The first running moments."""
        ...

    def forward_own_statistics(self, params: Params, x: Tensor) -> tuple[Tensor, Params]:
        """Outputs [N, outputs] for inputs [N, *input], normalised by the batch itself, and the batch's moments."""
        ...

    def outputs(self, params: Params, data: Any) -> Tensor:
        """Outputs for a set of examples under its own statistics: what the loss of an inner step takes.

        A network of sequences reads the targets too: the decoder sees each token before it is asked for the next.
        """
        ...

    def embed(self, params: Params, x: Tensor) -> Tensor:
        """The features [N, features] that the head would see in ``forward_own_statistics``."""
        ...

    def adapted(self, phi: Params, support_x: Tensor, running: Params | None = None) -> Adapted:
        """These weights, ready to predict after this support set."""
        ...

    def query_outputs(self, adapted: Adapted, data: Any) -> Tensor:
        """Outputs for a query set: what its loss takes."""
        ...

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Answers for queries x [N, *input]: outputs [N, outputs], or of a network of sequences tokens [N, T]."""
        ...

    def observe(self, adapted: Adapted, x: Tensor) -> tuple[Tensor, Params]:
        """``predict``, and the moments that the queries themselves gave."""
        ...

    def features(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The features [N, features] that the head would see in ``predict``."""
        ...


def head_of(params: Params) -> Params:
    """The leaves of the last layer."""
    return {name: leaf for name, leaf in params.items() if name.startswith(HEAD)}
