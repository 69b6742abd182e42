"""OML: a representation that is learned so that a head on it learns a stream, and forgets little of it.

Javed & White: Meta-Learning Representations for Continual Learning, arXiv 1905.12588, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from pipeline.core.inner import iterate
from pipeline.core.network import head_of
from pipeline.core.types import About, Batch, Context, MetaParams, Params
from pipeline.families.gradient import BATCHES
from pipeline.families.online import Online, OnlineConfig


class OML(Online):
    """W_{j+1} = W_j - alpha ∇_W l(W_j φ(x_j), y_j), the body φ fixed; then φ and W_0 descend the query loss at W_k.

    Our head is one linear layer, as in the authors' corrected code; their article has several.
    """

    Config: ClassVar[type[OnlineConfig]] = OnlineConfig
    about: ClassVar[About] = About("optimisation", "Javed & White 2019, arXiv 1905.12588")

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        phi, order = self.start(theta["model"], context), context.noise[BATCHES]
        features = self.model.embed(phi | self.model.masks(context.noise), self.model.net.reads(support))

        def loss(head: Params, j: int) -> Tensor:
            seen = order[j]
            return self.loss(self.model.net.read_out(head, features[seen]), support.y[seen]).loss

        for head in iterate(loss, head_of(phi), self.steps(context), self.rule(context), first_order=False):
            yield phi | head
