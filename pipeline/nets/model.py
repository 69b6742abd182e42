"""A network under a normalisation mode. It alone decides which statistics a forward pass sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.network import DROPOUT, INNER, Adapted
from pipeline.core.types import Params, Phase
from pipeline.nets.net import Net
from pipeline.nets.normalisation import (
    GROUPS,
    BatchStatistics,
    ExampleStatistics,
    FixedStatistics,
    Mode,
    Normaliser,
    NoStatistics,
)

NUMBERS_AT_ONCE = 1 << 17
"""Numbers of all inputs of queries that are answered at once, each with a support set of its own."""


class NormalisedNet:
    """``forward_own_statistics`` is the forward pass of the inner loop, ``predict`` that of queries."""

    def __init__(self, net: Net, mode: Mode, input_shape: tuple[int, ...]) -> None:
        self.net = net
        self.mode = mode
        self.input_shape = input_shape

    def body(self) -> NormalisedNet:
        """The same network without its head: its outputs are the features, leaves ``head/…`` are none of its."""
        return NormalisedNet(self.net.body(), self.mode, self.input_shape)

    def init(self, rng: np.random.Generator) -> Params:
        return self.net.init(rng)

    def draw(self, rng: np.random.Generator, rows: int, phase: Phase) -> Params:
        """A task's dropout masks for at most ``rows`` examples; none in evaluation, or without dropout."""
        return self.net.draw_masks(rng, rows) if phase == "train" else {}

    def masks(self, noise: Params) -> Params:
        """The dropout masks among a task's random tensors. They join the weights, as leaves that no step changes."""
        return {name: leaf for name, leaf in noise.items() if name.startswith(DROPOUT)}

    def draw_inner(self, rng: np.random.Generator, rows: int, steps: int) -> Params:
        """Dropout masks of an evaluation, of which each inner step leaves out other numbers.

        Args:
            rng: draws them.
            rows: the most examples that a step sees.
            steps: inner steps; each mask is [steps, rows, …].
        """
        drawn = [self.net.draw_inner_masks(rng, rows) for _ in range(steps)]
        return {INNER + name: torch.stack([masks[name] for masks in drawn]) for name in (drawn[0] if drawn else {})}

    def inner_masks(self, noise: Params, j: int) -> Params:
        """The dropout masks of inner step j: its own where each step has some, else the task's."""
        own = {name.removeprefix(INNER): leaf[j] for name, leaf in noise.items() if name.startswith(INNER + DROPOUT)}
        return self.masks(noise) | own

    def running(self, params: Params) -> Params:
        """The first running moments: mean 0, variance 1 for each normalised layer."""
        x = torch.zeros((2, *self.input_shape), dtype=next(iter(params.values())).dtype)
        _, moments = self.forward_own_statistics(params, x)
        return {name: torch.full_like(m, float(name.endswith("/variance"))) for name, m in moments.items()}

    def forward_own_statistics(self, params: Params, x: Tensor) -> tuple[Tensor, Params]:
        """Outputs, and the moments that the batch itself gave ({} where the mode looks at no batch)."""
        normalise = self._own_statistics()
        return self.net(params, x, normalise), normalise.moments

    def outputs(self, params: Params, data: Any) -> Tensor:
        """Outputs for a set of examples under its own statistics: what the loss of an inner step takes."""
        return self.forward_own_statistics(params, self.net.reads(data))[0]

    def embed(self, params: Params, x: Tensor) -> Tensor:
        """The features that the head would see in ``forward_own_statistics``."""
        return self.net.embed(params, x, self._own_statistics())

    def adapted(self, phi: Params, support_x: Tensor, running: Params | None = None) -> Adapted:
        """These weights, ready to predict after this support set; ``running`` is for the mode of that name.

        Without running moments (in training) that mode normalises each query batch by its own.
        """
        if self.mode == "support":
            return Adapted(phi, self.forward_own_statistics(phi, support_x)[1])
        if self.mode == "one_query":
            return Adapted(phi, {"support_x": support_x})
        return Adapted(phi, running or {})

    def query_outputs(self, adapted: Adapted, data: Any) -> Tensor:
        """Outputs for a query set: what its loss takes."""
        return self._of_queries(self.net, adapted, self.net.reads(data))[0]

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Answers [N, …] for queries x [N, *input]: the outputs, or what the network makes of them."""
        return self._of_queries(self.net.answer, adapted, x)[0]

    def observe(self, adapted: Adapted, x: Tensor) -> tuple[Tensor, Params]:
        """``predict``, and the moments that the queries themselves gave ({} where they decide nothing)."""
        return self._of_queries(self.net, adapted, x)

    def features(self, adapted: Adapted, x: Tensor) -> Tensor:
        """The features [N, …] that the head would see in ``predict``."""
        return self._of_queries(self.net.embed, adapted, x)[0]

    def _of_queries(
        self, forward: Callable[[Params, Tensor, Normaliser], Tensor], of: Adapted, x: Tensor
    ) -> tuple[Tensor, Params]:
        phi, conditioning = of
        if "support_x" in conditioning:
            support_x = conditioning["support_x"]

            def one(query: Tensor) -> Tensor:
                return forward(phi, torch.cat([support_x, query.unsqueeze(0)]), self._own_statistics())[-1]

            return torch.func.vmap(one, chunk_size=self._queries_at_once(support_x))(x), {}
        if conditioning:
            return forward(phi, x, FixedStatistics(conditioning)), {}
        normalise = self._own_statistics()
        return forward(phi, x, normalise), normalise.moments

    def _queries_at_once(self, support_x: Tensor) -> int | None:
        """Queries that are answered at once, each beside its own copy of the support set; None is all of them.

        Where a graph is kept, answering some after the others would save no memory.
        """
        return (
            None if torch.is_grad_enabled() else max(1, NUMBERS_AT_ONCE // (support_x.numel() + support_x[0].numel()))
        )

    def _own_statistics(self) -> BatchStatistics | ExampleStatistics | NoStatistics:
        if self.mode == "none":
            return NoStatistics()
        if self.mode in ("layer", "group"):
            return ExampleStatistics(1 if self.mode == "layer" else GROUPS)
        return BatchStatistics()
