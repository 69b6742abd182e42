"""An architecture that is read off a task: a network maps the support set to the logits of the ops; ours.

The means are known: a code of the support set as the mean over its examples (Zaheer et al., Deep Sets, arXiv
1703.06114), and a hypernetwork that gives logits of ops. The weights are adapted by MAML's inner steps (arXiv
1703.03400).

Shapes: N support.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch

from pipeline.core.bounds import InnerSteps, Rate, Width
from pipeline.core.inner import SGD, beside, iterate
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.metric import one_hot
from pipeline.families.search import ArchitectureSearch
from pipeline.nets.coding import Perceptron
from pipeline.nets.search_space import ARCH, DEVIATION, EDGES, architecture, shares


@dataclass(frozen=True)
class HyperNASConfig:
    """The network of the architecture, and the inner loop of the weights, as MAML's.

    Attributes:
        width: Of the code of a support set.
        inner_lr: Rate of an inner step of the weights, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
    """

    width: Width = 64
    inner_lr: Rate = 0.1
    inner_steps: InnerSteps = 5
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 5
    first_order: bool = True


class HyperNAS(ArchitectureSearch):
    """alpha = g(mean over the support set of h(example)), then w_{j+1} = w_j - r ∇_w L_support(w_j, alpha); the outer
    loop descends L_query(w_k, alpha) in w and, as the group ``arch``, in g and h.

    An example is its input and its target beside it, a class as one-hot. The last layer of g starts near 0, so that all
    ops have equal shares at first.
    """

    Config: ClassVar[type[HyperNASConfig]] = HyperNASConfig
    about: ClassVar[About] = About("optimisation", "ours; sets as Zaheer et al. 2017, arXiv 1703.06114")

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        example, ops = (math.prod(model.input_shape), model.net.outputs), len(model.net.ops)
        self.code = Perceptron("code", example, config.width, 1, config.width)
        self.to_logits = Perceptron("logits", (config.width,), config.width, 1, EDGES * ops)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        leaves = self.code.init(rng) | self.to_logits.init(rng)
        last = "logits/head/weight"
        return {ARCH: leaves | {last: DEVIATION * leaves[last]}}

    def logits(self, theta: MetaParams, support: Batch) -> Params:
        """The architecture of a support set."""
        y = support.y if support.y.is_floating_point() else one_hot(support.y, self.model.net.outputs, support.x)
        codes = self.code(theta[ARCH], torch.cat([support.x.flatten(1), y], 1))
        return architecture(self.to_logits(theta[ARCH], codes.mean(0, keepdim=True)).reshape(EDGES, -1))

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        of_task = shares(self.logits(theta, support))
        loss = beside(of_task, self.support_loss(support, context))
        rule, first_order = SGD(self.config.inner_lr), self.config.first_order
        for phi in iterate(loss, theta["model"], self.steps(context), rule, first_order=first_order):
            yield phi | of_task
