"""Random initialisation and fine-tuning: what a support set alone teaches, without any other task.

The baseline "random" or "from scratch" of many papers; nobody's in particular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from pipeline.core.algorithm import detach
from pipeline.core.inner import SGD, Adam, Rule, unroll
from pipeline.core.types import Batch, Context, Family, MayChange, MetaParams, Params, Score, Task
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class FinetuneConfig:
    """Steps on the *mean* loss of the whole support set, in every phase."""

    inner_optimizer: Annotated[Literal["sgd", "adam"], MayChange()] = "sgd"
    inner_lr: Annotated[float, Gt(0), MayChange()] = 0.01
    inner_steps: Annotated[int, Ge(1), MayChange()] = 50


class Finetune(GradientBased):
    """Theta is what ``init`` drew from the run's seed, and stays so: no optimizer steps it, and outer steps do nothing.

    A run of one step is enough; more of them are more evaluations of the same theta on training tasks.
    """

    Config: ClassVar[type[FinetuneConfig]] = FinetuneConfig
    family: ClassVar[Family] = "baseline"
    paper: ClassVar[str] = "none: plain supervised training on each support set"
    sends: ClassVar[str] = "nothing: theta is never learned"
    state_groups = frozenset({"model"})

    def steps(self, context: Context) -> int:
        return self.config.inner_steps

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> tuple[Params, ...]:
        loss, steps = self.support_loss(support), self.steps(context)
        return unroll(loss, theta["model"], steps, self._rule(), first_order=True)

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        return {}, detach(self.score(self.adapt(theta, task.support, context), task.query, context))

    def _rule(self) -> Rule:
        return SGD(self.config.inner_lr) if self.config.inner_optimizer == "sgd" else Adam(self.config.inner_lr)
