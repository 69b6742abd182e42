"""OML: a representation that is learned so that a head on it learns a stream, and forgets little of it.

Javed & White: Meta-Learning Representations for Continual Learning, arXiv 1905.12588, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipeline.core.types import About, Batch, Context, MetaParams, Params
from pipeline.families.online import Online, OnlineConfig


class OML(Online):
    """W_{j+1} = W_j - alpha ∇_W l(W_j φ(x_j), y_j), the body φ fixed; then φ and W_0 descend the query loss at W_k.

    Our head is one linear layer, as in the authors' corrected code; their article has several.
    """

    Config: ClassVar[type[OnlineConfig]] = OnlineConfig
    about: ClassVar[About] = About("optimisation", "Javed & White 2019, arXiv 1905.12588")

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        return self.head_trajectory(theta, support, context)
