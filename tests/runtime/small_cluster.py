"""A cluster as people start it, on one machine: `ray start --head`, a second node and `ray job`, all with a token."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


class SmallCluster:
    """One head with two CPUs and one node with two; its processes are children of this one and are stopped by pid."""

    def __init__(self) -> None:
        # Short: the sockets of Ray lie below it, and a socket's path has 107 characters at the most.
        self.home = Path(tempfile.mkdtemp(prefix="mf-"))
        self.token = secrets.token_hex(32)
        ports = free_ports(12)
        self.address, self.dashboard = f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_") and key != "PYTHONPATH"}
        self.environment = kept | {
            "HOME": str(self.home),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            head = ["--head", f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--temp-dir={self.home}/ray"]
            self._start("head", [*head, f"--ray-client-server-port={ports[2]}"], ports[3:7], 20000)
            self._wait_for_dashboard()
            self._start("node", [f"--address={self.address}"], ports[7:11], 21000)
            self._wait_for_node()
        except BaseException:
            self.stop()
            raise

    def _start(self, name: str, options: list[str], ports: list[int], workers: int) -> None:
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        own = [f"--{one}={port}" for one, port in zip((*names, "runtime-env-agent-port"), ports, strict=True)]
        limits = [f"--min-worker-port={workers}", f"--max-worker-port={workers + 999}", "--num-cpus=2"]
        self.processes.append(
            subprocess.Popen(
                [BIN / "ray", "start", "--block", "--node-ip-address=127.0.0.1", *own, *limits, *options],
                cwd=self.home,
                env=self.environment,
                stdout=(self.home / f"{name}.log").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def _wait_for_dashboard(self) -> None:
        request = urllib.request.Request(
            f"http://{self.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(request, timeout=5).close()
            except OSError:
                log = (self.home / "head.log").read_text()
                assert self.processes[0].poll() is None, log
                assert time.monotonic() < deadline, log
                time.sleep(0.1)
            else:
                return

    def _wait_for_node(self) -> None:
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log("node"):
            assert self.processes[1].poll() is None, self.log("node")
            assert time.monotonic() < deadline, self.log("node")
            time.sleep(0.1)

    def command(self, *arguments: str) -> list[str]:
        """``ray job …`` against this cluster."""
        verb, *rest = arguments
        return [str(BIN / "ray"), "job", verb, "--address", f"http://{self.dashboard}", *rest]

    def submit(self, name: str, *arguments: str, folder: Path = ROOT) -> subprocess.Popen[bytes]:
        """Train as a job called ``name`` in ``folder``; what it prints comes to NAME.log in ``home``.

        In a folder outside the checkout the job finds the checkout as it would find an installed package.
        """
        job = ["--submission-id", name, "--working-dir", str(folder)]
        if folder != ROOT:
            job += ["--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})]
        job += ["--", "python", "-m", "jobs.train", *arguments]
        log = (self.home / f"{name}.log").open("wb")
        self.processes.append(
            subprocess.Popen(
                self.command("submit", *job),
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return self.processes[-1]

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's token, unless ``environment`` says otherwise."""
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=START_S,
            check=False,
        )

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def stop(self) -> None:
        """The head last: it is the others' way to hear of anything."""
        stop_newest_first(self.processes)
        shutil.rmtree(self.home, ignore_errors=True)


def stop_newest_first(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask each session to end, and kill the one that does not."""
    for process in reversed(processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def free_ports(count: int) -> list[int]:
    """Ports that are free now, outside those that Ray gives to workers (10002 to 19999, and ours from 20000)."""
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        one = socket.socket()
        one.bind(("127.0.0.1", 0))
        if one.getsockname()[1] > 22000:
            sockets.append(one)
        else:
            one.close()
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
