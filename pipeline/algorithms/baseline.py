"""Baseline and Baseline++: one classifier for all training classes, then a fresh head on frozen features for each task.

Chen, Liu, Kira, Wang, Huang: A Closer Look at Few-shot Classification, arXiv 1904.04232, and the authors' code. No task
is learned here: a training task is a batch of examples, labelled by their classes' numbers (``labels: classes``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import backprop
from pipeline.core.batches import batches
from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.inner import Momentum, unroll
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network, head_of
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Phase, Score, Task
from pipeline.families.frozen_body import FrozenBody, all_data
from pipeline.nets.net import fan_in_normal

MOMENTUM, DAMPENING, DECAY = 0.9, 0.9, 1e-3
"""Of the optimizer of a fresh head, as published."""

FEW, SCALE_OF_FEW, SCALE_OF_MANY = 200, 2.0, 10.0
"""Cosines are multiplied by this before the softmax, as published: more classes need a sharper one."""

EPSILON = 1e-8


@dataclass(frozen=True)
class BaselineConfig:
    """The classifier, and how a fresh head is fitted to a support set.

    The authors' code takes 100 epochs in batches of 4, which for 5 examples is 200 steps.

    Attributes:
        classifier: ``cosine`` is Baseline++.
        eval_inner_lr: Rate of a step of the fresh head, on the *mean* loss of a batch.
        eval_inner_steps: Steps of the fresh head.
        eval_inner_batch: Support examples in a batch.
    """

    classifier: Literal["linear", "cosine"] = "linear"
    eval_inner_lr: Annotated[Rate, MayChange()] = 0.01
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 100
    eval_inner_batch: Annotated[Count, MayChange()] = 4


class Baseline(FrozenBody):
    """Cross-entropy over all training classes, with logits w·f(x) + b or s · cos(w, f(x)); no inner loop in training.

    The authors' code also learns a length for each class's cosine, which the paper does not have and neither have we.
    """

    Config: ClassVar[type[BaselineConfig]] = BaselineConfig
    about: ClassVar[About] = About("baseline", "Chen et al. 2019, arXiv 1904.04232")
    differentiable = True
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("classes",), head=True)

    def __init__(self, config: BaselineConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        # Only its width is of interest: a fresh head is drawn before there is a theta to look at.
        self.features = model.net.features

    def initial_model(self, rng: np.random.Generator) -> Params:
        model = self.model.init(rng)
        if self.config.classifier == "cosine":
            del model["head/bias"]
        return model

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """Where a fresh head starts [ways, features], and rows of the support set for each of its steps."""
        if phase == "train":
            return {}
        steps, batch = self.config.eval_inner_steps, self.config.eval_inner_batch
        weight = fan_in_normal(rng, (task.ways, self.features), self.features, 1.0)
        return {"weight": weight, "batches": batches(rng, len(task.support.y), steps, batch)}

    def heads(self, theta: MetaParams, features: Batch, context: Context) -> tuple[Params, ...]:
        if context.phase == "train":
            return (head_of(theta["model"]),)
        weight, drawn = context.noise["weight"], context.noise["batches"]
        fresh = {"head/weight": weight}
        if self.config.classifier == "linear":
            fresh["head/bias"] = torch.zeros_like(weight[:, 0])

        def loss(head: Params, j: int) -> Tensor:
            rows = drawn[j]
            return self.loss(self.read_out(head, features.x[rows]), features.y[rows]).loss

        rule = Momentum(self.config.eval_inner_lr, MOMENTUM, DAMPENING, DECAY)
        return unroll(loss, fresh, len(drawn), rule, first_order=True)

    def read_out(self, head: Params, features: Tensor) -> Tensor:
        if self.config.classifier == "linear":
            return super().read_out(head, features)
        weight = head["head/weight"]
        scale = SCALE_OF_FEW if len(weight) <= FEW else SCALE_OF_MANY
        return scale * _unit(features) @ _unit(weight).T

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        x, y = all_data(task)
        phi = theta["model"] | self.model.masks(context.noise)
        features, moments = self.body.forward_own_statistics(phi, x)
        return self.judged(head_of(theta["model"]), features, y, moments)

    def learn(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[MetaParams, Score]:
        return backprop(self, theta, task, context)


def _unit(rows: Tensor) -> Tensor:
    """Each row at length 1; a row of zeros, which ReLU may give, stays one and has a gradient."""
    return rows * torch.rsqrt(rows.square().sum(1, keepdim=True) + EPSILON)
