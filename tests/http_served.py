"""Tiny runs to serve, and what a user sends to them: the same episodes as JSON and as arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.build import build_components
from pipeline.config import Recipe
from pipeline.core.agent import Agent
from pipeline.core.seeding import Ticket
from pipeline.core.types import Points
from pipeline.runs.run import RunOptions, train_run
from pipeline.serving.http.app import build_app
from pipeline.serving.http.host import Host
from pipeline.serving.http.limits import Limits
from pipeline.serving.http.users import Users, read_users
from pipeline.serving.learner import Learner
from tests.quiet_runs import Nowhere, Onlooker
from tests.runtime.tiny import recipe

ALICE, BOB = "a-token-of-alice", "a-token-of-bob-s"
USERS = read_users(None, {"METAFLEET_TOKENS": f"alice:{ALICE}\nbob:{BOB}"})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def train(made: Recipe, folder: Path) -> Path:
    """The folder of a finished run that no tracker has seen."""
    own = made.tracking.model_copy(update={"uri": f"sqlite:///{folder}.db"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.tracking.mlflow_tracker.MLflowTracker", lambda uri, experiment: Nowhere())
        here = made.model_copy(update={"tracking": own})
        return train_run(here, RunOptions("serial", output=folder), Onlooker()).folder


ON_IMAGES = "maml on images"
"""MAML's tiny run is of curves; this one classifies, and no answer depends on the other rows."""


def tiny(algorithm: str, images: Path) -> Recipe:
    """The recipe of an algorithm's tiny run, or ``ON_IMAGES``."""
    changes: dict[str, Any] = {"steps": 1, "evaluation": {"tasks": 2}}
    if algorithm == ON_IMAGES:
        shape = {"ways": 3, "shots": 1, "queries": 2}
        changes |= {"source": {"name": "images", "path": str(images)}, "net": {"name": "conv4", "channels": 8}}
        changes |= {"normalisation": "support", "task": {"train": shape, "eval": shape}}
    if algorithm == "online_head":  # it learns a stream, and a mode that looks at a batch has none to look at
        changes["normalisation"] = "none"
    return recipe("maml" if algorithm == ON_IMAGES else algorithm, images, **changes)


def load(made: Recipe, folder: Path) -> Learner:
    """Under the run's own normalisation: a request's rows are those of an evaluation task."""
    return pipeline.load(folder, normalisation=made.normalisation)


def episode(made: Recipe, number: int = 0) -> tuple[dict[str, Any], Any]:
    """The body of ``POST /adapt`` for a test task, and the rows (or observations) to ask then."""
    components = build_components(made)
    spec, ticket = components.source.spec(), Ticket(20260, "evaluate", "test", 0, number)
    if isinstance(components.algorithm, Agent):
        return _episodes(spec, np.random.default_rng(number))
    task = components.source.sample(ticket)
    parts = [task.support, task.query]
    if spec.data is Points:
        parts = [type(part)(*(column[part.mask == 1] for column in part)) for part in parts]
    support, query = parts
    return {"support_x": support.x.tolist(), "support_y": support.y.tolist()}, query.x.tolist()


def _episodes(spec: Any, rng: np.random.Generator) -> tuple[dict[str, Any], Any]:
    size, discrete = spec.actions
    episodes = [
        [
            rng.normal(size=(4, *spec.input_shape)).tolist(),
            rng.integers(0, size, 4).tolist() if discrete else rng.normal(size=(4, size)).tolist(),
            rng.normal(size=4).tolist(),
        ]
        for _ in range(3)
    ]
    return {"episodes": episodes}, rng.normal(size=(3, *spec.input_shape)).tolist()


def expected(learner: Learner, body: dict[str, Any], asked: Any) -> Any:
    """What Python's own ``adapt`` and ``outputs`` or ``act`` say."""
    if "episodes" in body:
        actor = learner.adapt(body["episodes"])
        return [np.asarray(actor.act(one)).tolist() for one in asked]
    predictor = learner.adapt(body["support_x"], body["support_y"])
    outputs = predictor.outputs(asked)
    if not predictor.labels:
        return outputs
    shifted = np.exp(outputs.astype(np.float64) - outputs.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def served(client: Any, body: dict[str, Any], asked: Any, headers: dict[str, str] | None = None) -> Any:
    """The same over HTTP."""
    answer = client.post("/adapt", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    session = answer.json()["session"]
    if "episodes" in body:
        acted = [
            client.post("/act", json={"session": session, "observation": one}, headers=headers).json() for one in asked
        ]
        return [one["action"] for one in acted]
    answer = client.post("/predict", json={"session": session, "query_x": asked}, headers=headers)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    if "values" in told:
        return np.hstack([told[name] for name in ("values", "deviations") if name in told])
    probabilities = np.asarray(told["probabilities"])
    assert told["labels"] == [told["classes"][column] for column in probabilities.argmax(1)]
    return probabilities


def app(learner: Learner, users: Users = USERS, limits: Limits | None = None, clock: Any = None) -> Any:
    """The app of one host in this process, without Ray."""
    host = Host(learner, {"model": "tiny"}, limits or Limits(), 2, clock)
    return build_app([calling(host)], users, limits or Limits())


def calling(host: Host) -> Callable[..., Any]:
    return lambda method, *arguments: getattr(host, method)(*arguments)
