"""Tiny runs to serve, and what a user sends to them: the same episodes as JSON and as arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.config import Recipe
from pipeline.runs.run import RunOptions, train_run
from pipeline.runs.run_folder import validate_folder
from pipeline.serving.http.app import build_app
from pipeline.serving.http.host import Host
from pipeline.serving.http.limits import Limits
from pipeline.serving.http.users import Users, read_users
from pipeline.serving.learner import Learner
from tests.quiet_runs import Nowhere, Onlooker
from tests.runtime.tiny import recipe
from tests.served import Episode, episode

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


def trained_once(images: Path, folder: Callable[[], Path]) -> Callable[[str], Path]:
    """From an algorithm to the folder of its tiny run, which is trained when it is first asked for."""

    @functools.cache
    def run_of(algorithm: str) -> Path:
        return train(tiny(algorithm, images), folder())

    return run_of


def load(folder: Path) -> Learner:
    """Under the run's own normalisation: a request's rows are those of an evaluation task."""
    return pipeline.load(folder, normalisation=validate_folder(folder).normalisation)


def asked(folder: Path, number: int = 0) -> tuple[dict[str, Any], list[Any], Episode]:
    """A test task of a run as JSON: the body of ``POST /adapt``, the rows to ask then, and the trainer's answers."""
    one = episode(folder, number)
    body = {name: np.asarray(part).tolist() for name, part in one.request.items() if name != "support_x"}
    support = one.request["support_x"]
    rows = body.pop("query_x")
    return {"support_x": support if isinstance(support, list) else support.tolist()} | body, rows, one


def served(client: Any, body: dict[str, Any], rows: list[Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What is answered over HTTP; each action of an agent is the first of a session."""

    def ask(path: str, content: dict[str, Any]) -> dict[str, Any]:
        answer = client.post(path, json=content, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    session = ask("/adapt", body)["session"]
    if "support_y" in body:
        told = ask("/predict", {"session": session, "query_x": rows})
        if "classes" in told:
            best = np.argmax(told["probabilities"], 1)
            assert told["labels"] == [told["classes"][column] for column in best]
        return told
    sessions = [session, *(ask("/adapt", body)["session"] for _ in rows[1:])]
    acted = [ask("/act", {"session": one, "observation": row}) for one, row in zip(sessions, rows, strict=True)]
    return {"actions": [one["action"] for one in acted]}


def app(learner: Learner, users: Users = USERS, limits: Limits | None = None, clock: Any = None) -> Any:
    """The app of one host in this process, without Ray."""
    host = Host(learner, {"model": "tiny"}, limits or Limits(), 2, clock)
    return build_app([calling(host)], users, limits or Limits())


def calling(host: Host) -> Callable[..., Any]:
    return lambda method, *arguments: getattr(host, method)(*arguments)
