"""The files of a finished run beside its checkpoints: its summary, and an agent's episodes as GIFs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.build import Components
from pipeline.config import Recipe
from pipeline.core.agent import Agent
from pipeline.core.seeding import Ticket
from pipeline.core.types import Context
from pipeline.tasks.film import film

FILMS = "episodes"
"""The folder of the GIFs."""


def end_files(
    recipe: Recipe, components: Components, vector: np.ndarray, summary: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files by name, with slashes."""
    text = json.dumps(dict(summary), indent=2, default=float) + "\n"
    return {"summary.json": text.encode()} | _films(recipe, components, vector)


def _films(recipe: Recipe, components: Components, vector: np.ndarray) -> dict[str, bytes]:
    """An agent's first episode in the first evaluation task, before and after adaptation, where it can be looked at."""
    agent = components.algorithm
    if not isinstance(agent, Agent):
        return {}
    ticket = Ticket(recipe.evaluation.seed, "evaluate", recipe.evaluation.split, 0, 0)
    task = components.source.sample(ticket)
    noise = agent.draw(ticket.rng("noise"), task, "evaluate")
    task, noise = pytree.tree_map_only(Tensor, lambda tensor: _typed(tensor, components.layout.dtype), (task, noise))
    with torch.no_grad():
        theta = components.layout.unpack(torch.from_numpy(vector))
        trace = list(agent.trace(theta, task.support, Context(0, "evaluate", task.ways, noise)))
    actions = _typed(agent.distribution.noise(ticket.rng("step"), (1, task.query.horizon)), components.layout.dtype)
    shown = {"before.gif": trace[0]} | ({"after.gif": trace[-1]} if len(trace) > 1 else {})
    films = {name: film(agent, adapted, task.query, actions) for name, adapted in shown.items()}
    return {f"{FILMS}/{name}": data for name, data in films.items() if data is not None}


def _typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
