"""What a soaked run lives in, as processes of our own: a cluster of two nodes, an MLflow server and the driver."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from tests import mlflow_server

KINDS = ("kill_worker", "hang_worker", "kill_parameter_actor", "stop_driver", "take_mlflow_away", "swap_node")
AWAY_S = (2.0, 10.0)
RESTART_S = 2.0
STOP_S = 60.0
UNRELIABLE = json.dumps(
    {
        f"CoreWorkerService.grpc_client.{call}": {
            "num_failures": 5,
            "req_failure_prob": 2,
            "resp_failure_prob": 2,
            "in_flight_failure_prob": 2,
        }
        for call in ("PushTask", "GetObjectStatus")
    }
)
"""Up to five messages of each kind, in every process that reads it, are lost, lose their reply or come twice."""


class World:
    """Everything that can be broken, and the faults that break it. Only processes started here are touched."""

    def __init__(self, folder: Path, seed: int, *, unreliable: bool) -> None:
        """With ``unreliable``, actors on the head and each second session of the driver lose and double messages."""
        self.folder, self.recipe, self.run = folder, folder / "recipe.json", folder / "run"
        self.random = random.Random(seed)
        self.log = (folder / "driver.log").open("ab")
        self.port = mlflow_server.free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.repair: threading.Timer | None = None
        head = {"num_cpus": 1, "env_vars": {"RAY_testing_rpc_failure": UNRELIABLE}} if unreliable else {"num_cpus": 1}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.head = {one.pid for one in psutil.Process().children(recursive=True)}
        self.spare = self.cluster.add_node(num_cpus=1)
        self.driver: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.unreliable = False
        self.exits: Counter[int] = Counter()

    def start_server(self) -> None:
        self.server = mlflow_server.start(self.folder, self.port)

    def start_driver(self) -> None:
        self.started = time.time()
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.driver", self.recipe, self.run, self.cluster.address],
            stdout=self.log,
            stderr=self.log,
            env=os.environ | ({"RAY_testing_rpc_failure": UNRELIABLE} if self.unreliable else {}),
            start_new_session=True,
        )

    def look_after_driver(self) -> bool:
        """Whether the run is done; a driver that has ended otherwise is started again, though not at once."""
        code = None if self.driver is None else self.driver.poll()
        if code is not None and code != 0 and time.time() > self.started + RESTART_S:
            self.exits[code] += 1
            self.start_driver()
        return code == 0

    def settle(self) -> None:
        """Everything is there again, the driver apart."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.terminate()
            self._wait_for_driver()
        if self.repair is not None:
            self.repair.join()
        self.unreliable = False

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        if self.repair is not None:
            self.repair.join()
        self.cluster.shutdown()
        if self.server is not None:
            mlflow_server.stop(self.server)
        self.log.close()

    # What is there.

    def actors(self, kind: str) -> list[psutil.Process]:
        """Live actor processes of a class, on all nodes, in a fixed order; those that hang are not alive."""
        found = [one for one in psutil.Process().children(recursive=True) if kind in _name(one)]
        return sorted((one for one in found if _status(one) != psutil.STATUS_STOPPED), key=lambda one: one.pid)

    def ours(self) -> dict[str, list[psutil.Process]]:
        """The processes of this project, by what they do."""
        driver = [] if self.driver is None else [psutil.Process(self.driver.pid)]
        return {
            "driver": driver,
            "parameter actor": self.actors("ParameterActor"),
            "workers": self.actors("TaskWorker"),
        }

    def rays(self) -> dict[str, list[psutil.Process]]:
        """Ray's own processes on the head node, which no fault ends."""
        found: dict[str, list[psutil.Process]] = {"gcs_server": [], "raylet": [], "the rest of Ray's head": []}
        for one in psutil.Process().children(recursive=True):
            if one.pid in self.head and not _name(one).startswith("ray::"):
                found.get(_name(one), found["the rest of Ray's head"]).append(one)
        return found

    def messages(self) -> Counter[str]:
        """How many messages Ray says that it lost or doubled."""
        folder = Path(self.cluster.head_node.get_session_dir_path()) / "logs"
        found: Counter[str] = Counter()
        for log in folder.glob("python-core-*.log"):
            for what in re.findall(r"Inject RPC (\w+) failure (while|for)", log.read_text(errors="replace")):
                found[{"request": "lost", "response": "reply lost"}[what[0]] if what[1] == "for" else "doubled"] += 1
        return found

    # Faults: each says what it did, or None where there was nothing to harm.

    def kill_worker(self) -> str | None:
        return self._signal("TaskWorker", signal.SIGKILL)

    def hang_worker(self) -> str | None:
        return self._signal("TaskWorker", signal.SIGSTOP)

    def kill_parameter_actor(self) -> str | None:
        return self._signal("ParameterActor", signal.SIGKILL)

    def stop_driver(self) -> str | None:
        """Politely or not; whoever looks after the run starts it again."""
        if self.driver is None or self.driver.poll() is not None:
            return None
        kind = self.random.choice([signal.SIGTERM, signal.SIGKILL])
        self.driver.send_signal(kind)
        self._wait_for_driver()
        self.unreliable = not self.unreliable
        after = "loses and doubles messages" if self.unreliable else "does not"
        return f"driver: {kind.name}, exit {self.driver.returncode}; the next {after}"

    def take_mlflow_away(self) -> str | None:
        """For some seconds."""
        if self.server is None:
            return None
        mlflow_server.stop(self.server)
        self.server = None
        self.repair = threading.Timer(self.random.uniform(*AWAY_S), self.start_server)
        self.repair.start()
        return f"MLflow is gone for {self.repair.interval:.0f} s"

    def swap_node(self) -> str | None:
        self.cluster.remove_node(self.spare, allow_graceful=False)
        self.spare = self.cluster.add_node(wait=False, num_cpus=1)
        return "a node was lost, another comes"

    def _signal(self, kind: str, number: signal.Signals) -> str | None:
        found = self.actors(kind)
        if not found:
            return None
        self.random.choice(found).send_signal(number)
        return f"{kind}: {number.name}"

    def _wait_for_driver(self) -> None:
        assert self.driver is not None
        try:
            self.driver.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()


def _name(process: psutil.Process) -> str:
    """Ray writes an actor's class into its command line; the kernel keeps 15 letters of a name."""
    try:
        return " ".join(process.cmdline()[:1]) if process.name().startswith("ray::") else process.name()
    except psutil.Error:
        return ""


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_STOPPED)
