"""The driver ends a run in MLflow that another process keeps, and waits for no server."""

from __future__ import annotations

import socket

from mlflow.tracking import MlflowClient

from pipeline.tracking.mlflow_tracker import MLflowTracker
from pipeline.tracking.run_ender import RunEnder


def test_a_run_that_somebody_else_keeps_is_ended(mlflow_uri):
    run = MLflowTracker(mlflow_uri, "metafleet").start(None, "a run", {}, {})
    assert RunEnder(mlflow_uri, "metafleet", run).end("KILLED", 30.0) is None
    assert MlflowClient(tracking_uri=mlflow_uri).get_run(run).info.status == "KILLED"


def test_a_run_that_is_not_there_is_told(mlflow_uri):
    problem = RunEnder(mlflow_uri, "metafleet", "0" * 32).end("FAILED", 30.0)
    assert problem is not None
    assert "not found" in problem


def test_a_server_that_never_answers_is_left():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert RunEnder(uri, "metafleet", "0" * 32).end("KILLED", 0.05) == "MLflow did not answer for 0.05 s"
