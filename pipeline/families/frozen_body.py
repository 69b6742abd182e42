"""What the methods share that fit a head of a task's own on features: all but how it is fitted."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.losses import LossFunction
from pipeline.core.types import Batch, Context, MetaParams, Params, Score, Task
from pipeline.nets.model import Adapted, NormalisedNet
from pipeline.nets.running import fold_moments

HEAD = "head/"


class FittedHead(NamedTuple):
    """A task's head, and the body whose features it reads."""

    body: Adapted
    head: Params


class FrozenBody(Algorithm[Batch, FittedHead]):
    """The body is frozen while a task's head is fitted. Under ``running`` it gathers moments while it trains."""

    def __init__(self, config: Any, model: NormalisedNet, loss: LossFunction) -> None:
        self.config, self.model, self.loss = config, model, loss
        self.body = model.body()
        self.state_groups = frozenset({"running"} if model.mode == "running" else ())

    @abstractmethod
    def heads(self, theta: MetaParams, features: Batch, context: Context) -> tuple[Params, ...]:
        """Before the head is fitted to a support set's features and after each step; no graph is kept."""

    def read_out(self, head: Params, features: Tensor) -> Tensor:
        """[N, features] -> [N, outputs]."""
        return features @ head["head/weight"].T + head["head/bias"]

    def init(self, rng: np.random.Generator) -> MetaParams:
        params = self.model.init(rng)
        return {"model": params} | ({"running": self.body.running(params)} if self.state_groups else {})

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> FittedHead:
        return self.trace(theta, support, context)[-1]

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> tuple[FittedHead, ...]:
        # While training, running moments are only gathered: each batch is normalised by its own.
        running = theta["running"] if self.state_groups and context.phase != "train" else {}
        body = self.body.adapted(theta["model"], support.x, running)
        features = self.body.predict(Adapted(theta["model"], running), support.x)
        return tuple(FittedHead(body, head) for head in self.heads(theta, Batch(features, support.y), context))

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


def all_data(task: Task[Batch]) -> Batch:
    """Support and query set as one: methods that learn no adaptation need no query set in training."""
    return Batch(torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y]))
