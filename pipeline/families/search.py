"""Methods that search an architecture while they adapt weights. Each brings what moves the logits of the ops.

Theta has the weights of all ops as the group ``model``, and the architecture as the group ``arch``, which may have an
outer optimizer of its own. Elsken et al. (arXiv 1911.11090) call this meta-learning of neural architectures.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Batch, Context, MetaParams, Needs, Params, Score
from pipeline.families.gradient import GradientBased
from pipeline.nets.search_space import ARCH, cell_of, is_open, strongest

DISCRETE = "discrete/"
"""How the names begin, among an adapted network's leaves, of what the discrete network's normalisation must know."""


class ArchitectureSearch(GradientBased):
    """Evaluation reports the mixture of all ops; beside it as ``METRIC_discrete`` the network of the strongest op on
    each edge, at the same weights; and as ``edge0/OP`` the share of tasks that chose an op.

    The weights were adapted within the mixture, so the discrete network often is far worse. What a cell is worth shows
    a run of another algorithm, such as MAML, on the network whose ``net.cell`` names its ops.

    Raises:
        ConfigError: the network has no architecture to search.
    """

    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=True)

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        if not is_open(model.net):
            raise ConfigError(
                f"net.cell: {type(self).__name__} searches a cell; take function_cells or image_cells and set net.cell "
                "to null"
            )
        super().__init__(config, model, loss)

    def initial_model(self, rng: np.random.Generator) -> Params:
        weights: Params = self.model.net.init_weights(rng)
        return weights

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        return {ARCH: self.model.net.init_architecture(rng)}

    def adapted(self, phi: Params, support: Batch, context: Context) -> Adapted:
        mixture = super().adapted(phi, support, context)
        if context.phase == "train":
            return mixture
        conditioning = super().adapted(phi | strongest(phi), support, context).conditioning
        return mixture._replace(phi=mixture.phi | {DISCRETE + name: leaf for name, leaf in conditioning.items()})

    def score(self, adapted: Adapted, query: Batch, context: Context) -> Score:
        score = super().score(adapted, query, context)
        if context.phase == "train":
            return score
        alone = super().score(discrete(adapted), query, context)
        beside = {f"{name}_discrete": value for name, value in alone.metrics.items()}
        return score._replace(metrics=score.metrics | beside | self.model.net.choices(adapted.phi))

    def cell(self, adapted: Adapted) -> tuple[str, ...]:
        """The op that a task chose on each edge."""
        return cell_of(self.model.net, adapted.phi)


def discrete(adapted: Adapted) -> Adapted:
    """The network of the strongest op on each edge, at the same weights."""
    conditioning = {
        name.removeprefix(DISCRETE): leaf for name, leaf in adapted.phi.items() if name.startswith(DISCRETE)
    }
    return Adapted(adapted.phi | strongest(adapted.phi), conditioning)
