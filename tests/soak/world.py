"""What a soaked run lives in, as processes of our own: a cluster of three nodes, an MLflow server and the driver."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster

from tests import mlflow_server


class World:
    """Everything that can be broken, and the faults that break it. Only processes started here are touched."""

    def __init__(self, folder: Path, recipe: Path, seed: int) -> None:
        self.folder, self.recipe = folder, recipe
        self.random = random.Random(seed)
        self.log = (folder / "driver.log").open("ab")
        self.port = mlflow_server.free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.head = {one.pid for one in psutil.Process().children(recursive=True)}
        self.spare = self.cluster.add_node(num_cpus=1)
        self.driver: subprocess.Popen[bytes] | None = None

    def start_server(self) -> None:
        self.server = mlflow_server.start(self.folder, self.port)

    def start_driver(self) -> None:
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.driver", self.recipe, self.folder / "run", self.cluster.address],
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def actors(self, kind: str) -> list[psutil.Process]:
        """Live actor processes of a class, on all nodes."""
        return [one for one in psutil.Process().children(recursive=True) if kind in _name(one)]

    def survivors(self) -> list[psutil.Process]:
        """Ray's processes on the head node, which no fault ends: their memory and open files must not grow."""
        return [one for one in psutil.Process().children(recursive=True) if one.pid in self.head]

    # Faults.

    def kill_worker(self) -> str:
        return self._signal("TaskWorker", signal.SIGKILL)

    def hang_worker(self) -> str:
        return self._signal("TaskWorker", signal.SIGSTOP)

    def kill_parameter_actor(self) -> str:
        return self._signal("ParameterActor", signal.SIGKILL)

    def stop_driver(self) -> str:
        """Politely or not; whoever looks after the run starts it again."""
        kind = self.random.choice([signal.SIGTERM, signal.SIGKILL])
        if self.driver is None or self.driver.poll() is not None:
            return "no driver to stop"
        self.driver.send_signal(kind)
        self.driver.wait(60)
        return f"driver: {kind.name}, exit {self.driver.returncode}"

    def take_mlflow_away(self) -> str:
        """Or bring it back."""
        if self.server is None:
            self.start_server()
            return "MLflow is back"
        mlflow_server.stop(self.server)
        self.server = None
        return "MLflow is gone"

    def swap_node(self) -> str:
        self.cluster.remove_node(self.spare, allow_graceful=False)
        self.spare = self.cluster.add_node(num_cpus=1)
        return "a node was lost, another came"

    def faults(self) -> list[Callable[[], str]]:
        return [
            self.kill_worker,
            self.hang_worker,
            self.kill_parameter_actor,
            self.stop_driver,
            self.take_mlflow_away,
            self.swap_node,
        ]

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()
        if self.server is not None:
            mlflow_server.stop(self.server)
        self.log.close()

    def _signal(self, kind: str, number: signal.Signals) -> str:
        found = self.actors(kind)
        if not found:
            return f"no {kind} to harm"
        victim = self.random.choice(sorted(found, key=lambda one: one.pid))
        victim.send_signal(number)
        return f"{kind}: {number.name}"


def _name(process: psutil.Process) -> str:
    """Ray writes an actor's class into its command line; the kernel keeps 15 letters of a name."""
    try:
        return " ".join(process.cmdline()[:1]) if process.name().startswith("ray::") else process.name()
    except psutil.Error:
        return ""
