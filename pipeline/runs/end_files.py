"""The files of a finished run beside its checkpoints: summary, description, pictures, an agent's episodes as GIFs."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from pipeline.build import Components
from pipeline.config import Recipe
from pipeline.core.agent import Agent
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.types import Context
from pipeline.core.world import HasPicture
from pipeline.engine.interfaces import DESCRIPTION
from pipeline.runs.description import describe_run
from pipeline.runs.end_pictures import Ended, pictures
from pipeline.tasks.film import film

FILMS = "episodes"
"""The folder of the GIFs."""


def end_files(ended: Ended, note: Callable[[str], None]) -> dict[str, bytes]:
    """The files by name, with slashes. Where a picture fails, ``note`` is told, and the run goes without it."""
    text = json.dumps(dict(ended.summary), indent=2, default=float) + "\n"
    files = {"summary.json": text.encode()} | _films_or_none(ended, note)
    if ended.recipe.tracking.report:
        files |= pictures(ended, note) | {DESCRIPTION: describe_run(ended).encode()}
    return files


def _films_or_none(ended: Ended, note: Callable[[str], None]) -> dict[str, bytes]:
    try:
        return _films(ended.recipe, ended.components, ended.vector)
    except Exception as error:  # noqa: BLE001  (whatever a user's world raises here, the run itself is good)
        note(f"no GIF of an episode: {type(error).__name__}: {error}".splitlines()[0])
        return {}


def _films(recipe: Recipe, components: Components, vector: np.ndarray) -> dict[str, bytes]:
    """An agent's first episode in the first evaluation task, before and after adaptation, where it can be looked at."""
    agent = components.algorithm
    if not isinstance(agent, Agent):
        return {}
    ticket = Ticket(recipe.evaluation.seed, "evaluate", recipe.evaluation.split, 0, 0)
    task = components.source.sample(ticket)
    if not isinstance(task.query.world, HasPicture):
        return {}
    noise = agent.draw(ticket.rng("noise"), task, "evaluate")
    actions = agent.distribution.noise(ticket.rng("step"), (1, task.query.horizon))
    task, noise, actions = cast((task, noise, actions), components.layout.dtype)
    with torch.no_grad():
        theta = components.layout.unpack(torch.from_numpy(vector))
        trace = list(agent.trace(theta, task.support, Context(0, "evaluate", task.ways, noise)))
    shown = {"before.gif": trace[0]} | ({"after.gif": trace[-1]} if len(trace) > 1 else {})
    return {f"{FILMS}/{name}": film(agent, adapted, task.query, actions) for name, adapted in shown.items()}
