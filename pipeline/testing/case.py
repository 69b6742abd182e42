"""What a check is given: an algorithm with tasks for it, in float64; and the one function that builds an algorithm."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.flat import Layout, cast
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Purpose, Ticket, init_rng
from pipeline.core.source import Spec, TaskSource
from pipeline.core.types import Context, MetaParams, Phase, Task
from pipeline.engine.interfaces import Chunk
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Mode

SEED, TASKS = 3, 2
"""The seed of everything drawn, and how many tasks a check takes."""
FOLDED = 9
"""The task whose records are in the state groups of a case's theta."""


def assemble(
    algorithm: type[Algorithm[Any, Any]], config: Any, net: type[Net], net_config: Any, mode: Mode, spec: Spec
) -> Algorithm[Any, Any]:
    """An algorithm on a network that fits the tasks. Raises ``ConfigError`` where the parts do not go together."""
    if spec.data not in net.takes:
        raise ConfigError(f"{net.__name__} does not read {spec.data.__name__}")
    network = net.for_tasks(net_config, spec, head=algorithm.needs.head, normalised=mode != "none")
    return algorithm(config, NormalisedNet(network, mode, spec.input_shape), LOSSES[spec.loss].function)


class Case(NamedTuple):
    """An algorithm with tasks for it, and the mode under which its network normalises."""

    algorithm: Algorithm[Any, Any]
    source: TaskSource[Any]
    mode: Mode

    def theta(self) -> MetaParams:
        """A fresh theta in float64, with state groups as after a first step: an empty memory would show little."""
        theta = pytree.tree_map(
            lambda leaf: leaf.detach().to(torch.float64, copy=True), self.algorithm.init(init_rng(SEED))
        )
        if not self.algorithm.state_groups:
            return theta
        _, score = self.algorithm.learn(theta, *self.drawn(FOLDED))
        return theta | self.algorithm.fold(theta, [score.records] if score.records else [])

    def layout(self) -> Layout:
        return Layout.of(self.theta(), torch.float64)

    def ticket(self, number: int, purpose: Purpose = "train") -> Ticket:
        return Ticket(SEED, purpose, "train" if purpose == "train" else "test", 1, number)

    def drawn(self, number: int, phase: Phase = "train") -> tuple[Task[Any], Context]:
        """A fresh task in float64, and its context."""
        ticket = self.ticket(number, "train" if phase == "train" else "evaluate")
        task = self.source.sample(ticket)
        context = Context(1, phase, task.ways, self.algorithm.draw(ticket.rng("noise"), task, phase))
        return cast((task, context), torch.float64)


def vector_of(case: Case) -> np.ndarray:
    theta = case.theta()
    vector = Layout.of(theta, torch.float64).pack(theta).numpy()
    vector.flags.writeable = False
    return vector


def chunk_of(case: Case, *, evaluate: bool = False) -> Chunk:
    return Chunk(1, 0, tuple(case.ticket(number, "evaluate" if evaluate else "train") for number in range(TASKS)))
