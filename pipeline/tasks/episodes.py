"""An agent's task: one world, with episodes of their own in the support and the query set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, require_one_way
from pipeline.core.types import Params, Simulator, Task


def simulators(
    ticket: Ticket, shape: TaskShape, world: Any, episodes: Callable[[int], Params], horizon: int
) -> Task[Simulator]:
    """The task of a ticket in ``world``.

    Args:
        ticket: names it.
        shape: ``shots`` support and ``queries`` query episodes.
        world: the task's ``core.world.World``.
        episodes: draws all randomness of so many episodes, save that of the actions.
        horizon: the most steps of an episode.

    Raises:
        ConfigError: the shape asks for ways.
    """
    require_one_way("train" if ticket.purpose == "train" else "eval", shape)
    clock = torch.arange(horizon, dtype=torch.float64) / horizon
    support, query = (Simulator(world, episodes(count), clock) for count in (shape.shots, shape.queries))
    return Task(ticket.id, support, query)
