"""The MLflow run that a comparison or a sweep shows its runs under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.config import Tracking
from pipeline.engine.durability.publisher import tracked_key
from pipeline.engine.interfaces import RUN_KEY, Status
from pipeline.storage.interface import Storage
from pipeline.storage.texts import read_word
from pipeline.tracking.mlflow_tracker import MLflowTracker
from pipeline.tracking.run_ender import RunEnder

DESCRIPTION = "mlflow.note.content"
"""The tag that MLflow shows at the top of a run's page, as Markdown."""


@contextmanager
def held(storage: Storage) -> Iterator[None]:
    """Keep other processes from writing to ``storage`` inside the block.

    Raises:
        ConfigError: another process writes there.
    """
    storage.lock()
    try:
        storage.claim()
        yield
    finally:
        storage.release()


@contextmanager
def parent_run(
    storage: Storage, tracking: Tracking, name: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[tuple[MLflowTracker, str]]:
    """Open the parent run of a held ``storage``: a new one, or that of a process that was stopped. Yields its id too.

    The run ends with the block: FINISHED, KILLED after a signal, or FAILED.

    Raises:
        FencedError: another process has taken it over, and the run with it.
    """
    tracker = MLflowTracker(tracking.uri, tracking.experiment)
    key, before = tracked_key(storage), read_word(storage, "tracked_run")
    run = tracker.start(before, name, params, {RUN_KEY: key, **tags})
    try:
        storage.write("tracked_run", run.encode())
        yield tracker, run
    except BaseException as error:
        storage.check()
        status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        problem = RunEnder(tracking.uri, tracking.experiment, run).end(status)
        if problem is not None:
            error.add_note(f"MLflow still shows {name} as RUNNING: {problem}")
        raise
    storage.check()
    tracker.end("FINISHED")
