"""MAML: an initialisation from which a few gradient steps solve a task.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pipeline.core.batches import rows_of_sets
from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import OptimizerName, optimizer
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Pairs, Params, Phase, Sets, Task
from pipeline.families.gradient import BATCHES, GradientBased
from pipeline.nets.normalisation import refuse_all_sets


@dataclass(frozen=True)
class MAMLConfig:
    """MAML's inner loop.

    Where support sets come one after the other, the inner steps are those on each of them.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
        inner_optimizer: What takes the inner steps; the moments of ``adam`` start at zero for each task.
        eval_inner_batch: Support examples in a mini-batch at evaluation and in serving, dealt from shuffles of the
            support set; ``null`` takes all, as training does. Mini-batches mix support sets that come one after the
            other, as if all had come at once, and the inner steps are then those on all of them.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    first_order: bool = False
    inner_optimizer: OptimizerName = "sgd"
    eval_inner_batch: Annotated[Count | None, MayChange()] = None


class MAML(GradientBased):
    """phi_0 = theta; phi_{j+1} = phi_j - alpha ∇L_support(phi_j); the outer loop descends L_query(phi_k) (eq. 1, 2).

    ``first_order`` drops the second derivatives (FOMAML, §5.2). Of ``Sets``, a step descends the loss of one set
    alone, from the weights that the earlier sets gave.

    Raises:
        ConfigError: ``Sets`` under a normalisation by all support examples.
    """

    Config: ClassVar[type[MAMLConfig]] = MAMLConfig
    about: ClassVar[About] = About("optimisation", "Finn, Abbeel, Levine 2017, arXiv 1703.03400")
    needs: ClassVar[Needs] = Needs(data=(Batch, Pairs, Sets), targets=GradientBased.needs.targets, head=True)
    drops_in_steps = True
    adapts_parts = True

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        batch = None if phase == "train" else self.config.eval_inner_batch
        if isinstance(task.support, Sets):
            refuse_all_sets(self.model.mode, fitting="transductive")
            if batch is None:
                each = self.steps(Context(0, phase, task.ways, {}))
                return {BATCHES: rows_of_sets(task.support).repeat_interleave(each, 0)}
        return self.mini_batches(rng, task, self.config.eval_inner_steps, batch)

    def steps(self, context: Context) -> int:
        return len(context.noise[BATCHES]) if BATCHES in context.noise else super().steps(context)

    def milestones(self, context: Context) -> Sequence[int]:
        """The ends of support sets that come one after the other."""
        if BATCHES not in context.noise or self.config.eval_inner_batch is not None:
            return ()
        each = super().steps(context)
        return range(each, self.steps(context) + 1, each)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule = optimizer(self.config.inner_optimizer, self.config.inner_lr)
        return self.inner_loop(theta, support, context, rule, first_order=self.config.first_order)
