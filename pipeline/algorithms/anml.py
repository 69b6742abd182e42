"""ANML: a network that learns a stream, while another gates its features.

Beaulieu, Frati, Miconi, Lehman, Stanley, Clune, Cheney: Learning to Continually Learn, arXiv 2002.09571.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MetaParams, Params
from pipeline.families.online import Online, OnlineConfig
from pipeline.nets.gated import Gated
from pipeline.nets.model import NormalisedNet


class ANML(Online):
    """Inner steps move the whole prediction network, the gates stay; then both, and W_0, descend the query loss.

    The gating network has the form of the prediction network's body. The authors' is larger.
    """

    Config: ClassVar[type[OnlineConfig]] = OnlineConfig
    about: ClassVar[About] = About("optimisation", "Beaulieu et al. 2020, arXiv 2002.09571")
    adapts_parts = True
    drops_in_steps = True

    def __init__(self, config: OnlineConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, NormalisedNet(Gated(model.net), model.mode, model.input_shape), loss)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        start = {"model": self.start(theta["model"], context)}
        return self.inner_loop(start, support, context, self.rule(context), first_order=False)
