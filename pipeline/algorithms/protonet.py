"""ProtoNet: a class is the mean of its support embeddings, a query belongs to the nearest.

Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, arXiv 1703.05175.

In training, a support set and its queries are normalised apart, each by moments of its own, and the running moments are
those of the queries; so are those of all metric methods here. The authors' code embeds both as one batch, and each is
normalised by the moments of both: ``batch: joint``.

Shapes: N support, Q query, C ways, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import Rate
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import About, Batch, Context, MetaParams, Needs, Params, Phase, Sets, Task
from pipeline.families.metric import MetricBased, class_means, squared_distances
from pipeline.nets.normalisation import refuse_all_sets


@dataclass(frozen=True)
class ProtoNetConfig:
    """The softmax over distances, and what is normalised together.

    Distances grow with the width of an embedding. Where the softmax gives a query's class all of its weight, loss
    and gradient are 0, and a higher temperature lets the network learn.

    Attributes:
        temperature: What squared distances are divided by; published is 1.
        batch: Whether support and queries are normalised ``apart`` or as one ``joint`` batch.
    """

    temperature: Rate = 1.0
    batch: Literal["apart", "joint"] = "apart"


class Prototypes(NamedTuple):
    """Prototypes [C, D] and the encoder that made them; the support set where queries are normalised with it."""

    means: Tensor
    encoder: Adapted
    support: Batch | None = None


class ProtoNet(MetricBased[Prototypes]):
    """p(class | x) = softmax over classes of -‖f(x) - c‖² / temperature, c = mean f(the class's support) (eq. 1, 2).

    A mean over ``Sets`` is the running mean that is updated with each set: no earlier example is needed for it.

    Raises:
        ConfigError: ``batch: joint`` under a mode that normalises by no batch of queries; ``Sets`` under a mode that
            normalises by all support examples at evaluation.
    """

    Config: ClassVar[type[ProtoNetConfig]] = ProtoNetConfig
    needs: ClassVar[Needs] = Needs(data=(Batch, Sets), targets=("slots",), head=False)
    about: ClassVar[About] = About("metric", "Snell, Swersky, Zemel 2017, arXiv 1703.05175")

    def __init__(self, config: ProtoNetConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        if config.batch == "joint" and model.mode not in ("transductive", "running"):
            raise ConfigError(
                f"algorithm.batch: joint, but normalisation {model.mode!r} looks at no other queries; use transductive "
                "or running, or leave algorithm.batch out"
            )

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        if isinstance(task.support, Sets):
            refuse_all_sets(self.model.mode, fitting="running")
        return {}

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> Prototypes:
        z_ND, encoder = self.embed(theta, support, context)
        # Under running moments, which are there in evaluation, no example looks at another.
        together = self.config.batch == "joint" and not encoder.conditioning
        return Prototypes(class_means(z_ND, support.y, context.ways), encoder, support if together else None)

    def compare(self, adapted: Prototypes, z_QD: Tensor) -> tuple[Tensor, Params]:
        return -squared_distances(z_QD, adapted.means) / self.config.temperature, {}

    def _outputs(self, adapted: Prototypes, x: Tensor) -> tuple[Tensor, Params]:
        if adapted.support is None:
            return super()._outputs(adapted, x)
        support_x, y = adapted.support.x, adapted.support.y
        z, moments = self.model.observe(adapted.encoder, torch.cat([support_x, x]))
        means_CD = class_means(z[: len(y)], y, len(adapted.means))
        return self.compare(adapted._replace(means=means_CD), z[len(y) :])[0], moments
