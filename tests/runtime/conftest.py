"""A real MLflow server, for the test files that ask for one."""

from __future__ import annotations

import pytest

from tests import mlflow_server


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory):
    """Where the server keeps its database, its artifacts and its log."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def server(server_folder):
    """The address of a server of one process, on this machine only."""
    port = mlflow_server.free_port()
    process = mlflow_server.start(server_folder, port)
    yield f"http://127.0.0.1:{port}"
    mlflow_server.stop(process)
