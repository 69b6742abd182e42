"""MAML++: MAML with learned inner rates, a loss after every inner step, and second derivatives that come in late.

Antoniou, Edwards, Storkey: How to train your MAML, arXiv 1810.09502, §4. Each part is a switch of its own. Their batch
normalisation with running moments and biases of each inner step is not here: ``normalisation`` says what is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.effects import NotWith
from pipeline.core.inner import SGD, LeafwiseSGD, Rule
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Score, Task
from pipeline.families.gradient import GradientBased


@dataclass(frozen=True)
class MAMLPPConfig:
    """The inner loop, and which parts of MAML++ are on.

    Attributes:
        inner_lr: What the rates start at, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        learn_rates: Learn one rate for each layer and inner step.
        multi_step_until: Until this outer step the losses after all inner steps count, less and less but for the last
            one's; 0 is never.
        first_order_until: Until this outer step second derivatives are left out; 0 is never.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 5
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 5
    learn_rates: bool = True
    multi_step_until: Annotated[int, Ge(0), Le(10**9), NotWith(inner_steps=(1,))] = 1000
    first_order_until: Annotated[int, Ge(0), Le(10**9)] = 0


class MAMLPP(GradientBased):
    """phi_{j+1} = phi_j - alpha[layer, j] ∇L_support(phi_j); the outer loop descends Σ_j w_j L_query(phi_j) (§4).

    Rates are the group ``inner_lr``: for each layer one for each inner step. More steps at evaluation use the last.
    """

    Config: ClassVar[type[MAMLPPConfig]] = MAMLPPConfig
    about: ClassVar[About] = About("optimisation", "Antoniou, Edwards, Storkey 2019, arXiv 1810.09502")
    drops_in_steps = True
    adapts_parts = True

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        if not self.config.learn_rates:
            return {}
        rates = torch.full((self.config.inner_steps,), self.config.inner_lr, dtype=next(iter(model.values())).dtype)
        layers = dict.fromkeys(map(_layer, self.adapted_leaves(model)))
        return {"inner_lr": {layer: rates.clone() for layer in layers}}

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        rule, first_order = self._rule(theta), context.step <= self.config.first_order_until
        return self.inner_loop(theta, support, context, rule, first_order=first_order)

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        weights = loss_weights(self.config.inner_steps, context.step, self.config.multi_step_until)
        after_steps = islice(self.trace(theta, task.support, context), 1, None)
        wanted = [(weight, adapted) for weight, adapted in zip(weights, after_steps, strict=True) if weight]
        scores = [self.score(adapted, task.query, context) for _, adapted in wanted]
        losses = [weight * score.loss for (weight, _), score in zip(wanted, scores, strict=True)]
        return scores[-1]._replace(loss=torch.stack(losses).sum())

    def _rule(self, theta: MetaParams) -> Rule:
        if not self.config.learn_rates:
            return SGD(self.config.inner_lr)
        last = self.config.inner_steps - 1
        layers, leaves = theta["inner_lr"], self.adapted_leaves(theta["model"])
        return LeafwiseSGD(Partial(_rates, (layers, tuple(leaves), last)))


def loss_weights(steps: int, step: int, until: int) -> list[float]:
    """Of the query loss after each inner step, in outer step ``step``: equal in step 1, the last alone after ``until``.

    The authors keep 3% of an equal share on the earlier ones to the end of their ten epochs; here they go to zero.
    """
    early = max(0.0, 1.0 - (step - 1) / until) / steps if until else 0.0
    return [early] * (steps - 1) + [1.0 - early * (steps - 1)]


def _rates(layers: Params, leaves: tuple[str, ...], last: int, j: int) -> Params:
    return {name: layers[_layer(name)][min(j, last)] for name in leaves}


def _layer(name: str) -> str:
    return name.rpartition("/")[0]
