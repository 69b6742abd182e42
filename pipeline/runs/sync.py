"""Sends to MLflow what it missed of a run's journal, after an outage or a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from pipeline.build import publisher_of
from pipeline.core.failures import ForeignFileError, PipelineError, ResumeError
from pipeline.core.redact import redact
from pipeline.engine.durability.checkpoint import Checkpoints, name_of
from pipeline.engine.durability.identity import is_identity
from pipeline.engine.durability.journal import STATUSES, Journal
from pipeline.engine.interfaces import Status
from pipeline.runs.end_files import FILMS
from pipeline.runs.paths import absolute
from pipeline.runs.run_folder import validate_folder
from pipeline.storage import storage_at
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_text, read_word
from pipeline.tracking.mlflow_tracker import MLflowTracker, how_to_open, probe


class Synced(NamedTuple):
    """The state in MLflow: the run, its final status, its number of entries, and how to open it."""

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
    probe(recipe.tracking.uri, recipe.tracking.experiment)
    storage = storage_at(folder)
    known = _summary(storage)
    storage.lock()
    storage.claim()
    try:
        with closing(Journal(storage)) as journal:
            journal.load()
            if not journal.count:
                raise ResumeError(f"{folder}: its journal is empty; there is nothing to send")
            step = max(journal.newest.values())
            if next(reversed(journal.newest)) not in STATUSES:
                # The run was killed before it could be closed.
                journal.append(journal.entry("KILLED", step, {}))
            status = cast(Status, next(kind for kind in reversed(journal.newest) if kind in STATUSES))
            checkpoint, _ = Checkpoints(storage, 1).newest()
            tags = {"normalisation": recipe.normalisation, "folder": storage.where}
            identity = {} if checkpoint is None else checkpoint.metadata.get("identity")
            if is_identity(identity):
                tags |= {f"numerics.{key}": str(value) for key, value in identity["numerics"].items()}
                tags["data"] = str(identity["fixed"].get("data"))
            tracker = MLflowTracker(recipe.tracking.uri, recipe.tracking.experiment)
            publisher = publisher_of(recipe, tags, tracker, journal, storage)
            artifacts = ["recipe.yaml", "summary.json"] + ([] if checkpoint is None else [name_of(checkpoint.step)])
            artifacts += [f"{FILMS}/{name}" for name in storage.names(FILMS)]
            with _one_line(recipe.tracking.uri):
                publisher.send_end(status, artifacts, known | {"step": str(step)})
                run = read_word(storage, "tracked_run") or ""
                opened = how_to_open(recipe.tracking.uri, run)
            return Synced(run, status, journal.count, *opened)
    finally:
        storage.release()


@contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """A damaged or foreign database may raise any error."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it raises, a user can only replace the database)
        text = " ".join(redact(str(error)).split())[:300] or type(error).__name__
        raise PipelineError(
            f"MLflow at {redact(uri)}: {text}; if its database is damaged, move it away, or name another with "
            "tracking.uri="
        ) from None


def _summary(storage: Storage) -> dict[str, str]:
    """The tags that MLflow receives from the summary of a finished run."""
    try:
        summary = json.loads(read_text(storage, "summary.json") or "{}")
        return {key: str(summary[key]) for key in ("theta_sha256", "git_commit") if key in {**summary}}
    except (ValueError, TypeError, RecursionError) as error:
        raise ForeignFileError(
            f"{storage.where}/summary.json: holds no JSON object ({error}); put back a copy, or delete it and send the "
            "rest without"
        ) from None
