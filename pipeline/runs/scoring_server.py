"""Serves a model on MLflow's scoring server, as ``mlflow models serve --env-manager local`` does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config.sections import Tracking
from pipeline.core.failures import ConfigError, PipelineError
from pipeline.engine.durability.served import served_files
from pipeline.runs.run_folder import validate_folder
from pipeline.serving.task import SERVED, TASK
from pipeline.storage import storage_at
from pipeline.tracking.model import write_model
from pipeline.tracking.registry import Registry
from pipeline.tracking.uri import absolute, is_model_uri

STOP_S = 5.0


def serve_with_mlflow(model: str, host: str, port: int) -> None:
    """Answer POST /invocations until a signal ends it.

    Raises:
        ConfigError: there is no such model, or the port is taken.
        PipelineError: the server ended by itself; its own lines say why.
    """
    _require_free(host, port)
    with model_for_mlflow(model) as uri:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
        command += ["--model-uri", uri, "--host", host, "--port", str(port)]
        server = subprocess.Popen(command, env=_environment())
        try:
            code = server.wait()
        finally:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
        raise PipelineError(f"{model}: MLflow's scoring server ended with code {code}; its lines above say why")


@contextmanager
def model_for_mlflow(model: str) -> Iterator[str]:
    """What MLflow loads: the URI of the logged model, or a folder that is written for a run's and then removed."""
    if is_model_uri(model):
        yield f"models:/{Registry(Tracking().uri).model_id(model)}"
        return
    validate_folder(model)
    files = served_files(storage_at(model), SERVED)
    if TASK not in files:
        raise ConfigError(
            f"{model}: has no checkpoint or no {TASK}, so there is nothing to serve; end it with --resume"
        )
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        write_model(folder, files)
        yield str(folder)


def _environment() -> dict[str, str]:
    """That of the server: it starts uvicorn by its name, and imports plug-ins of the working folder as this does."""
    changed = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": os.getcwd()}
    joined = {name: os.pathsep.join(filter(None, [own, os.environ.get(name)])) for name, own in changed.items()}
    return os.environ | joined | {"MLFLOW_TRACKING_URI": absolute(Tracking().uri)}


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"--host {host} --port {port}: {why}; choose another port") from None
