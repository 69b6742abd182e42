"""What a run's journal holds and MLflow has not seen, sent later: a server was down, or the run was killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, cast

from pipeline.build import tracked_run
from pipeline.core.failures import ResumeError
from pipeline.engine.durability.checkpoint import Checkpoints, name_of
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import STATUSES, Publisher
from pipeline.engine.interfaces import Status
from pipeline.runs.run import absolute
from pipeline.runs.run_folder import validate_folder
from pipeline.storage import storage_at
from pipeline.tracking.mlflow_tracker import MLflowTracker, how_to_open, probe


class Synced(NamedTuple):
    """What MLflow has now: its run, the status it ended with, the entries behind it, and where to look."""

    run: str
    status: Status
    entries: int
    command: str
    link: str


def sync_run(folder: str | Path, overrides: Sequence[str] = ()) -> Synced:
    """Send the rest of a run's journal to MLflow and end the run there. Doing so again changes nothing.

    Raises:
        ConfigError: no run in ``folder``, or it is being trained at this moment (which only a disk can tell).
        ResumeError: the run has taken no step yet.
        PipelineError: MLflow does not take it.
    """
    recipe = absolute(validate_folder(folder, overrides))
    probe(recipe.tracking.uri)
    storage = storage_at(folder)
    storage.lock()
    storage.claim()
    try:
        with closing(Journal(storage)) as journal:
            journal.load()
            if not journal.count:
                raise ResumeError(f"{folder}: its journal is empty; there is nothing to send")
            step = max(journal.newest.values())
            if next(reversed(journal.newest)) not in STATUSES:
                # Nobody could close the run: it was killed.
                journal.append(journal.entry("KILLED", step, {}))
            status = cast(Status, next(kind for kind in reversed(journal.newest) if kind in STATUSES))
            checkpoint, _ = Checkpoints(storage, 1).newest()
            tags = {"normalisation": recipe.normalisation, "folder": storage.where}
            if checkpoint is not None:
                identity = checkpoint.metadata["identity"]
                tags |= {f"numerics.{key}": value for key, value in identity["numerics"].items()}
                tags["data"] = identity["fixed"]["data"]
            tracker = MLflowTracker(recipe.tracking.uri, recipe.tracking.experiment)
            publisher = Publisher(tracker, journal, tracked_run(recipe, tags), storage, recipe.tracking.log_every)
            artifacts = ["recipe.yaml", "summary.json"] + ([] if checkpoint is None else [name_of(checkpoint.step)])
            summary = json.loads(storage.read("summary.json") or b"{}")
            known = {key: str(summary[key]) for key in ("theta_sha256", "git_commit") if key in summary}
            publisher.send_end(status, artifacts, known | {"step": str(step)})
            run = (storage.read("tracked_run") or b"").decode()
            return Synced(run, status, journal.count, *how_to_open(recipe.tracking.uri, run))
    finally:
        storage.release()
