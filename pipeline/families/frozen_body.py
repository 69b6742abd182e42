"""Methods that fit a head for each task on the features of a frozen body. Each brings how the head is fitted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.inner import last
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Batch, Context, MetaParams, Params, Phase, Score, Task
from pipeline.nets.running import fold_moments


class FittedHead(NamedTuple):
    """A task's head, and the body whose features it reads."""

    body: Adapted
    head: Params


class FrozenBody(Algorithm[Batch, FittedHead]):
    """The body is frozen while a task's head is fitted. Under ``running`` it gathers moments while it trains."""

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.body = model.body()
        self.state_groups = frozenset({"running"} if model.mode == "running" else ())

    @abstractmethod
    def heads(self, theta: MetaParams, features: Batch, context: Context) -> tuple[Params, ...]:
        """The head before it is fitted to the support features and after each step, without a graph."""

    def read_out(self, head: Params, features: Tensor) -> Tensor:
        """[N, features] -> [N, outputs]."""
        return features @ head["head/weight"].T + head["head/bias"]

    def initial_model(self, rng: np.random.Generator) -> Params:
        """The first leaves of the group ``model``."""
        return self.model.init(rng)

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The random tensors of a task beside the network's own. Default: none."""
        return {}

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        model = self.initial_model(rng)
        return {"model": model} | ({"running": self.body.running(model)} if self.state_groups else {})

    @final
    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        rows = len(task.support.x) + len(task.query.x)
        return self.extra_noise(rng, task, phase) | self.model.draw(rng, rows, phase)

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> FittedHead:
        return last(self.trace(theta, support, context))

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[FittedHead]:
        # While training, running moments are only gathered: each batch is normalised by its own.
        running = theta["running"] if self.state_groups and context.phase != "train" else {}
        phi = theta["model"] | self.model.masks(context.noise)
        body = self.body.adapted(phi, support.x, running)
        features = self.body.predict(Adapted(phi, running), support.x)
        for head in self.heads(theta, Batch(features, support.y), context):
            yield FittedHead(body, head)

    def predict(self, adapted: FittedHead, x: Tensor) -> Tensor:
        return self.read_out(adapted.head, self.body.predict(adapted.body, x))

    def score(self, adapted: FittedHead, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    def judged(self, head: Params, features: Tensor, y: Tensor, moments: Params) -> Score:
        """A head on a training batch's features; ``moments`` of that batch are for the running ones, if there are."""
        score = self.loss(self.read_out(head, features), y)
        kept = moments if self.state_groups else {}
        return score._replace(records={name: moment.detach() for name, moment in kept.items()})

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        return fold_moments(theta, records)


def all_data(task: Task[Any]) -> Any:
    """Support and query set as one: methods that learn no adaptation need no query set in training."""
    return type(task.support)(*map(torch.cat, zip(task.support, task.query, strict=True)))
