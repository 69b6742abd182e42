"""A real MLflow server, and one that only looks like one, for tests that need somebody to talk to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server of one process with its database, artifacts and log in ``folder``, once it answers.

    Raises:
        TimeoutError: it did not come up; with the end of its log.
    """
    command = (
        f"{sys.executable} -m mlflow server --workers 1 --host 127.0.0.1 --port {port}"
        f" --backend-store-uri sqlite:///{folder}/mlflow.db --artifacts-destination {folder}/artifacts"
        " --allowed-hosts 127.0.0.1:*"  # a proxy in front of it has another port
    )
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command.split(), stdout=log, stderr=log, cwd=folder, env=os.environ | settings, start_new_session=True
        )
    deadline = time.monotonic() + START_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise TimeoutError(f"mlflow server did not come up: {(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.1)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill the server and the worker it started: they are a session of their own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.read() == b"OK")
    except OSError:
        return False


class Answering(BaseHTTPRequestHandler):
    """Answers every request with what ``answer`` gives: status, content type and body."""

    def answer(self) -> tuple[int, str, bytes] | None:
        """None to say nothing at all."""
        raise NotImplementedError

    def do_GET(self) -> None:
        said = self.answer()
        if said is None:
            return
        status, kind, body = said
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


@contextmanager
def answering(kind: type[Answering]) -> Iterator[ThreadingHTTPServer]:
    """A server of this process that answers as ``kind`` does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
