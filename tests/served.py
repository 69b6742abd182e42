"""An episode as the trainer evaluates it, and as a request to a served model: the numbers must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.build import build_components
from pipeline.core.agent import Agent
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.types import Context, Points
from pipeline.families.policy import SUPPORT
from pipeline.runs.run_folder import newest, pack, validate_folder
from pipeline.serving.answers import EPISODE
from pipeline.serving.learner import SERVED

LIMIT = 1e-6
QUERIES = 4
"""Observations that an agent is asked about."""


class Episode(NamedTuple):
    """One evaluation task of a run: the request, the mode to ask for, and the answers of the trainer's algorithm."""

    request: dict[str, Any]
    mode: str
    answers: dict[str, np.ndarray]


def episode(folder: Path, number: int = 0) -> Episode:
    """Computed by what the trainer is made of: the recipe's own source and algorithm, and the checkpoint's theta.

    Random tensors are drawn as serving draws them, since each evaluation task has its own.
    """
    recipe = validate_folder(folder)
    algorithm, source, layout, *_ = build_components(recipe)
    theta = layout.unpack(torch.from_numpy(pack(layout, newest(folder)[0])))
    task = source.sample(Ticket(recipe.evaluation.seed, "evaluate", recipe.evaluation.split, 0, number))
    noise = algorithm.draw(SERVED.rng("noise"), task, "evaluate")
    context = Context(0, "evaluate", task.ways, cast(noise, layout.dtype))
    support, query = cast((task.support, task.query), layout.dtype)
    with torch.no_grad():
        if isinstance(algorithm, Agent):
            return Episode(*_acted(algorithm, theta, support, context, layout.dtype))
        *_, adapted = algorithm.trace(theta, support, context)
        outputs = algorithm.predict(adapted, query.x)
    request = {"support_x": task.support.x.numpy(), "support_y": task.support.y.numpy(), "query_x": query.x.numpy()}
    if isinstance(task.support, Points):  # padding is no point
        given = task.support.mask.numpy() > 0
        request |= {name: request[name][given] for name in ("support_x", "support_y")}
        values, deviations = outputs.chunk(2, -1)
        return Episode(request, recipe.normalisation, {"values": values.numpy(), "deviations": deviations.numpy()})
    if source.spec().tokens is not None:
        return Episode(request, recipe.normalisation, {"tokens": outputs.numpy()})
    if source.spec().targets == "values":
        return Episode(request, recipe.normalisation, {"values": outputs.numpy()})
    ways = len(np.unique(request["support_y"]))
    return Episode(request, recipe.normalisation, {"probabilities": outputs[:, :ways].double().softmax(-1).numpy()})


def _acted(
    agent: Agent, theta: Any, support: Any, context: Context, dtype: torch.dtype
) -> tuple[dict[str, Any], str, dict[str, np.ndarray]]:
    """What the agent does at first observations, after the support episodes that it acted in itself."""
    start = agent.begin(theta)
    acted, _ = agent.act_in(start, support, context.noise[SUPPORT])
    adapted = agent.experience(start, acted)
    observations = acted.observations[:QUERIES, 0]
    actions = []
    for row in observations:
        noise = cast(agent.distribution.noise(SERVED.rng("noise"), (1,)), dtype)
        actions.append(agent.respond(adapted, row.unsqueeze(0), noise)[0][0].numpy())
    steps = acted.alive.sum(-1).long().tolist()
    episodes = [
        {name: part[row, : steps[row]].tolist() for name, part in zip(EPISODE, acted[:3], strict=True)}
        for row in range(len(steps))
    ]
    request = {"support_x": episodes, "query_x": observations.numpy()}
    return request, "none", {"actions": np.stack(actions)}


def difference(answer: dict[str, Any], expected: dict[str, np.ndarray]) -> float:
    """The largest one between a served answer and the trainer's."""
    return max(float(np.abs(np.asarray(answer[name]) - values).max()) for name, values in expected.items())


def written(one: Episode, folder: Path) -> tuple[Path, Path]:
    """The pictures of an episode as PNG files: its support set by class, and its queries, each in its order."""
    for name in ("support", "query"):
        values = one.request[f"{name}_x"]
        for number, x in enumerate(values):
            place = folder / name
            if name == "support":
                place /= f"class {one.request['support_y'][number]}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(np.asarray(x)[0] * 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number:03}.png")
    return folder / "support", folder / "query"
