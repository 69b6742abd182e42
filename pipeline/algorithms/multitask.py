"""Multi-task learning: one body for all tasks, and for each task a head of its own fitted on all of its data.

Caruana: Multitask Learning, Machine Learning 28 (1997). The tasks' joint loss is made small over the shared body and
all heads at once; nothing is learned about adapting, and a new task gets a head fitted on its support set. That is
another objective than meta-learning's, and not a case of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pipeline.core.algorithm import detach
from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import SGD, unroll
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Score, Task
from pipeline.families.frozen_body import FrozenBody, all_data


@dataclass(frozen=True)
class MultitaskConfig:
    """How a head is fitted: gradient descent from zero on all examples, with the features as they are.

    Attributes:
        inner_lr: Rate of a step, over 1 + the features' mean square length, so that 1 is stable whatever their size.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
    """

    inner_lr: Rate = 1.0
    inner_steps: InnerSteps = 20
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 20


class Multitask(FrozenBody):
    """The body descends the loss on all data of a task at the fitted head, which counts as a constant.

    At a head that minimises that loss this is the gradient of the minimum (the envelope theorem), so body and heads are
    minimised together and no second derivative is left out; after a few steps it is nearly so.
    """

    Config: ClassVar[type[MultitaskConfig]] = MultitaskConfig
    about: ClassVar[About] = About("baseline", "Caruana 1997")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=False)

    def heads(self, theta: MetaParams, features: Batch, context: Context) -> tuple[Params, ...]:
        z, y = features
        outputs = y.shape[1] if y.is_floating_point() else context.ways
        zero = {"head/weight": z.new_zeros((outputs, z.shape[1])), "head/bias": z.new_zeros(outputs)}
        rate = self.config.inner_lr / (1 + z.square().sum(1).mean())
        steps = self.config.inner_steps if context.phase == "train" else self.config.eval_inner_steps

        def loss(head: Params, j: int) -> Tensor:
            return self.loss(self.read_out(head, z), y).loss

        return unroll(loss, zero, steps, SGD(rate), first_order=True)

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        (x, y), masks = all_data(task), self.model.masks(context.noise)

        def joint(phi: Params) -> tuple[Tensor, Score]:
            features, moments = self.body.forward_own_statistics(phi | masks, x)
            head = self.heads(theta, Batch(features.detach(), y), context)[-1]
            score = self.judged(head, features, y, moments)
            return score.loss, score

        gradient, score = torch.func.grad(joint, has_aux=True)(theta["model"])
        return {"model": gradient}, detach(score)
