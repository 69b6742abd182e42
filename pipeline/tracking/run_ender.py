"""Ends a run in MLflow from the driver where the parameter actor cannot: it crashed, or a signal leaves no time."""

from __future__ import annotations

import logging
import threading

from pipeline.core.failures import PipelineError
from pipeline.engine.interfaces import Status
from pipeline.tracking.mlflow_tracker import MLflowTracker

END_S = {"KILLED": 0.6, "FAILED": 10.0, "FINISHED": 10.0}
"""Seconds by status: a process that was asked to end has little time, one that failed has more."""


def has_finished(uri: str, run: str) -> bool:
    """Whether MLflow shows the run as FINISHED. False where it does not know the run or does not answer."""
    try:
        return MLflowTracker(uri, "", run).status() == "FINISHED"
    except PipelineError as error:
        logging.getLogger(__name__).info("no status of run %s: %s", run, error)
        return False


class RunEnder:
    """Prepares to end ``run`` while the coordinator still tries to, since MLflow's first call takes most of a
    second."""

    def __init__(self, uri: str, experiment: str, run: str) -> None:
        self._tracker = MLflowTracker(uri, experiment, run)
        self._status: Status = "FAILED"
        self._asked = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._run, name="ending", daemon=True)
        self._thread.start()

    def end(self, status: Status, limit: float | None = None) -> str | None:
        """End the run within ``limit`` seconds. Returns why MLflow still shows it as running, if it does."""
        self._status, limit = status, END_S[status] if limit is None else limit
        self._asked.set()
        self._thread.join(limit)
        return f"MLflow did not answer for {limit:g} s" if self._thread.is_alive() else self._problem

    def _run(self) -> None:
        try:
            self._tracker.connect()
            self._asked.wait()
            self._tracker.end(self._status)
        except PipelineError as error:
            self._problem = str(error)
