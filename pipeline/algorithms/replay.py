"""Experience replay: steps on the examples of a stream together with some from a memory; without one, online learning.

Chaudhry et al.: On Tiny Episodic Memories in Continual Learning, arXiv 1902.10486, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipeline.core.inner import SGD
from pipeline.core.types import About, Batch, Context, MetaParams, Params
from pipeline.families.replay import ReplayConfig, Replayed


class Replay(Replayed):
    """phi_{j+1} = phi_j - alpha ∇L(phi_j) on the mean loss of the stream's examples and the replayed ones.

    The memory is a reservoir over all examples, as in MER, not one of equal shares for classes.
    """

    Config: ClassVar[type[ReplayConfig]] = ReplayConfig
    about: ClassVar[About] = About("baseline", "Chaudhry et al. 2019, arXiv 1902.10486")
    adapts_parts = True

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        return self.inner_loop(theta, support, context, SGD(self.config.inner_lr), first_order=True)
