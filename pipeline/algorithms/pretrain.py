"""Pre-training on all tasks at once, then fine-tuning on a support set: the baseline of MAML's regressions.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, arXiv 1703.03400, §5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from pipeline.core.algorithm import Differentiable
from pipeline.core.inner import SGD, unroll
from pipeline.core.types import Batch, Context, Family, Kind, MayChange, MetaParams, Params, Score, Task
from pipeline.families.frozen_body import all_data
from pipeline.families.gradient import GradientBased
from pipeline.nets.model import Adapted


@dataclass(frozen=True)
class PretrainConfig:
    """How it is fine-tuned: steps of gradient descent on the *mean* support loss. Training has none."""

    eval_inner_lr: Annotated[float, Gt(0), MayChange()] = 0.01
    eval_inner_steps: Annotated[int, Ge(1), MayChange()] = 10


class Pretrain(GradientBased, Differentiable[Batch, Adapted]):
    """One network is fitted to the examples of all tasks, so it learns their mean; then all of it is fine-tuned.

    Regressions alone: in a classification the slots mean something else in each task, see ``baseline``.
    """

    Config: ClassVar[type[PretrainConfig]] = PretrainConfig
    family: ClassVar[Family] = "baseline"
    paper: ClassVar[str] = "Finn, Abbeel, Levine 2017, arXiv 1703.03400"
    sends: ClassVar[str] = "the gradient of plain supervised training"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"regression"})

    def steps(self, context: Context) -> int:
        return 0 if context.phase == "train" else self.config.eval_inner_steps

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Params, ...]:
        rule = SGD(self.config.eval_inner_lr)
        return unroll(self.support_loss(support), theta["model"], self.steps(context), rule, first_order=True)

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        x, y = all_data(task)
        return self.loss(self.model.forward_own_statistics(theta["model"], x)[0], y)
