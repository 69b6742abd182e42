"""Gradient memory: MAML whose inner loop starts from what tasks like this one were adapted to before.

No paper has it by this name: an article on meta-learning with memories describes it under the name of iMAML, which is
another method. The memory's keys are task embeddings, its values past adapted deltas: phi_k - theta of the network's
head. What a task's key retrieves is added to theta, and the inner steps are MAML's from there.

A task's embedding is the gradient of its mean support loss with respect to the head, at theta, with a constant 1 behind
it. It is a mean over examples, so it does not depend on their order; inputs and labels both speak in it; and by the
constant a cosine tells a long gradient from a short one.

The content is changed by the outer step in two ways. M_0, a few slots that are always there, is learned by gradient as
theta is: keys, deltas (which start at 0) and the sharpness of the attention. The others are a state group, empty at
first: ``fold`` writes each task's key and delta, where a hit (a cosine of ``same`` or more) is averaged into its slot
and a miss takes the slot that ``forgetting`` names.

With nothing stored and M_0's deltas 0 it is MAML (arXiv 1703.03400).

Shapes: M slots, K width of a key, P numbers in the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from pipeline.core.bounds import Count, InnerSteps, Rate
from pipeline.core.effects import OnlyWith
from pipeline.core.failures import ConfigError
from pipeline.core.flat import join, split
from pipeline.core.inner import SGD, iterate, last
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network, head_of
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Score, Task
from pipeline.families.gradient import GradientBased
from pipeline.nets.memory.addressing import cosine
from pipeline.nets.memory.forgetting import FORGETTING
from pipeline.nets.memory.keyvalue import Code, Found, KeyValue, attention, empty


@dataclass(frozen=True)
class GradientMemoryConfig:
    """MAML's inner loop, and the memory of past deltas.

    ``forgetting: gate`` is no choice: ``fold`` has no gradient to learn it by.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
        slots: Slots that deltas are stored in.
        learned_slots: Slots of M_0, which is learned by gradient.
        same: The cosine from which on a task counts as one that is stored.
        forgetting: Which slot is evicted on a miss.
        keep: The share of the content that stays at each step under ``forgetting: decay``.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    first_order: bool = False
    slots: Count = 128
    learned_slots: Count = 4
    same: Annotated[float, Gt(-1), Le(1)] = 0.99
    forgetting: Literal["lru", "none", "decay", "importance"] = "lru"
    keep: Annotated[float, Gt(0), Le(1), OnlyWith("forgetting", "decay")] = 0.99


class Deltas(KeyValue):
    """The answer is Σ attention · delta, over M_0 (``params``) and all that is stored."""

    def __init__(self, config: GradientMemoryConfig) -> None:
        super().__init__(FORGETTING[config.forgetting](config.keep))
        self.same = config.same

    def right(self, code: Code, nearest: Tensor, value: Tensor) -> Tensor:
        return nearest >= self.same

    def integrate(self, params: Params, code: Code, found: Found) -> Tensor:
        cosines = torch.cat([cosine(params["keys"], code.key), found.cosine], -1)
        return attention(cosines, params["sharpness"]) @ torch.cat([params["deltas"], found.values])


class GradientMemoryMAML(GradientBased):
    """phi_0 = theta + Σ a_m delta_m; then MAML's steps. ``trace`` begins at phi_0: retrieval without a step."""

    Config: ClassVar[type[GradientMemoryConfig]] = GradientMemoryConfig
    about: ClassVar[About] = About(
        "memory", "none; MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400) with a memory of its deltas"
    )
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=True)
    state_groups = frozenset({"memory"})

    def __init__(self, config: GradientMemoryConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.memory = Deltas(config)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        if not head_of(model):
            raise ConfigError("net.head: is empty, and this method stores deltas of the last layer; name it")
        numbers = len(join(head_of(model)))
        keys = torch.from_numpy(rng.normal(0.0, (numbers + 1) ** -0.5, (self.config.learned_slots, numbers + 1)))
        start = {
            "keys": keys,
            "deltas": keys.new_zeros(self.config.learned_slots, numbers),
            "sharpness": keys.new_tensor(10.0),
        }
        return {"start": start, "memory": empty(self.config.slots, numbers + 1, numbers, keys)}

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        return self._from(theta, self.embed(theta, support), support, context)

    def objective(self, theta: MetaParams, task: Task[Batch], context: Context) -> Score:
        key = self.embed(theta, task.support)
        phi = last(self._from(theta, key, task.support, context))
        score = self.score(self.adapted(phi, task.support, context), task.query, context)
        delta = join(head_of(phi)) - join(head_of(theta["model"]))
        return score._replace(records={"task": torch.cat([key, delta]).detach()})

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        """The memory after the keys and deltas of all used tasks, one after the other."""
        rows = [record["task"] for record in records]
        return {"memory": self.memory.write(theta["start"], torch.stack(rows), theta["memory"])} if rows else {}

    def embed(self, theta: MetaParams, support: Batch) -> Tensor:
        """The task's key: the head's gradient at theta, and a 1 behind it."""
        features = self.model.embed(theta["model"], support.x)

        def loss(head: Params) -> Tensor:
            return self.loss(self.model.net.read_out(head, features), support.y).loss

        key = join(torch.func.grad(loss)(head_of(theta["model"])))
        key = torch.cat([key, key.new_ones(1)])
        return key.detach() if self.config.first_order else key

    def _from(self, theta: MetaParams, key: Tensor, support: Batch, context: Context) -> Iterator[Params]:
        delta = self.memory.look(theta["start"], key, theta["memory"]).answer
        head = head_of(theta["model"])
        phi = theta["model"] | {name: head[name] + part for name, part in split(delta, head).items()}
        rule, first_order = SGD(self.config.inner_lr), self.config.first_order
        return iterate(self.support_loss(support, context), phi, self.steps(context), rule, first_order=first_order)
