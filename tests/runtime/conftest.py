"""A real MLflow server, for the test files that ask for one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory):
    """Where the server keeps its database, its artifacts and its log."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(server_folder):
    """The address of a server of one process, on this machine only."""
    folder = server_folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"{sys.executable} -m mlflow server --workers 1 --host 127.0.0.1 --port {port}"
        f" --backend-store-uri sqlite:///{folder}/mlflow.db --artifacts-destination {folder}/artifacts"
        f" --allowed-hosts 127.0.0.1:{port}"
    )
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command.split(), stdout=log, stderr=log, cwd=folder, env=os.environ | settings, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own session: the server and the worker it started
        process.wait(10)


def wait_for(health, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=1) as answer:
                if answer.read() == b"OK":
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"mlflow server did not come up: {log.read_text()[-2000:]}")
