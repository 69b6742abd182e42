"""MetaNAS: Reptile over weights and architecture, with a softmax over ops that sharpens while a task is learned.

Elsken, Staffler, Metzen, Hutter: Meta-Learning of Neural Architectures for Few-Shot Learning, arXiv 1911.11090.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le
from torch import Tensor

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import Adam, ByPrefix, iterate
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Phase, Task
from pipeline.families.gradient import BATCHES, Delta
from pipeline.families.search import ArchitectureSearch
from pipeline.nets.search_space import ARCH, shares


@dataclass(frozen=True)
class MetaNASConfig:
    """The inner loop, as Reptile's, with a rate for the architecture. Both inner optimizers are Adam without momentum.

    Attributes:
        inner_lr: Rate of an inner step of the weights, on the *mean* loss of a mini-batch.
        arch_lr: Rate of an inner step of the architecture.
        inner_steps: Inner steps in training.
        inner_batch: Support examples in a mini-batch in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        eval_inner_batch: Support examples in a mini-batch at evaluation and in serving.
        final_temperature: The temperature of the softmax after the last inner step; it falls from 1 along a line. 0.1
            is published, 1 is no pruning.
    """

    inner_lr: Rate = 1e-3
    arch_lr: Rate = 1e-3
    inner_steps: InnerSteps = 5
    inner_batch: Count = 10
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 50
    eval_inner_batch: Annotated[Count, MayChange()] = 5
    final_temperature: Annotated[float, Gt(0), Le(1)] = 0.1


class MetaNAS(ArchitectureSearch):
    """w <- w - epsilon · mean(w - w_k), and alpha likewise, after k inner steps on a task from (w, alpha).

    Soft pruning: the shares of ops are softmax(alpha / T), and T falls to ``final_temperature`` along a task's steps.
    So the adapted network is nearly discrete, and its weights have been adapted to that. The authors weigh the edges
    into a node as well, and here a node has no edges to choose from.
    """

    Config: ClassVar[type[MetaNASConfig]] = MetaNASConfig
    meta_gradient = Delta()
    about: ClassVar[About] = About("optimisation", "Elsken et al. 2020, arXiv 1911.11090")

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        config = self.config
        train = phase == "train"
        steps = config.inner_steps if train else config.eval_inner_steps
        return self.mini_batches(rng, task, steps, config.inner_batch if train else config.eval_inner_batch)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        fit, steps = self.support_loss(support, context), len(context.noise[BATCHES])

        def pruned(phi: Params, j: int) -> Params:
            return phi | shares(phi, 1 - (1 - self.config.final_temperature) * j / steps)

        def loss(phi: Params, j: int) -> Tensor:
            return fit(pruned(phi, j), j)

        rule = ByPrefix(f"{ARCH}/", Adam(self.config.arch_lr, beta1=0.0), Adam(self.config.inner_lr, beta1=0.0))
        # The delta is not differentiated, so no graph of the inner loop is kept.
        path = iterate(loss, theta["model"] | theta[ARCH], steps, rule, first_order=True)
        for j, phi in enumerate(path):
            yield pruned(phi, j)
