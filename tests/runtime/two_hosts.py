"""``python -m tests.runtime.two_hosts FOLDER``: a run on two hosts whose link is cut, and mended, in the middle of it.

The hosts are network namespaces: this process's own, into which ``unshare --map-root-user --net`` put it, has the head,
the driver and one worker; the other has a node for one worker. Prints the outcome as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import ray

from tests.quiet_runs import run
from tests.runtime.drill import HEALTH, LIMITS
from tests.runtime.small_cluster import BIN, stop_newest_first
from tests.runtime.tiny import recipe

STEPS, JOINED, CUT, MENDED, BACK = 150, 5, 45, 75, 125
HERE, THERE, NOWHERE = "10.77.0.1", "10.77.0.2", "02:00:00:00:00:77"
PORT = 6379
WAIT_S = 60.0


RAY_START = (str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--disable-usage-stats")


class TwoHosts:
    """Both hosts, the link between them, and what is done to it after which step."""

    def __init__(self) -> None:
        # Short: the sockets of Ray lie below it, and a socket's path has 107 characters at the most.
        self.home = Path(tempfile.mkdtemp(prefix="mf-"))
        self.processes: list[subprocess.Popen[bytes]] = []
        other = self._start("unshare", "--net", "sleep", "1000").pid
        self.inside = ("nsenter", f"--target={other}", "--net")
        until(lambda: network(other) != network(os.getpid()))
        self.there = network(other)
        call("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
        call("ip", "link", "set", "there", "netns", str(other))
        self.ended = 0.0
        self.steps: list[float] = []

    def start(self) -> None:
        """The network, the head and one more node."""
        for prefix, link, address in (((), "here", HERE), (self.inside, "there", THERE)):
            call(*prefix, "ip", "address", "add", f"{address}/24", "dev", link)
            call(*prefix, "ip", "link", "set", link, "up")
            call(*prefix, "ip", "link", "set", "lo", "up")
            # Nothing lies behind it: Ray asks for the way to the world to learn the machine's address.
            call(*prefix, "ip", "route", "add", "default", "dev", link)
        head = ["--head", f"--port={PORT}", f"--node-ip-address={HERE}", f"--temp-dir={self.home}/ray"]
        self._start(*RAY_START, *head, "--include-dashboard=false")
        until(self._joined)
        self.add_node()

    def _joined(self) -> bool:
        try:
            ray.init(f"{HERE}:{PORT}", log_to_driver=False, logging_level=logging.CRITICAL)
        except ConnectionError:
            return False
        return True

    def add_node(self) -> None:
        self._start(*self.inside, *RAY_START, f"--address={HERE}:{PORT}", f"--node-ip-address={THERE}")
        until(lambda: nodes() == 2)

    def _worker_there(self) -> bool:
        for one in psutil.Process().children(recursive=True):
            try:
                if "TaskWorker" in one.name() and network(one.pid) == self.there:
                    return True
            except (psutil.Error, OSError):  # it has just ended
                continue
        return False

    def cut(self) -> None:
        """Both send to a machine that does not exist: every packet is lost, and nobody is told."""
        call("ip", "neighbour", "replace", THERE, "lladdr", NOWHERE, "dev", "here", "nud", "permanent")
        call(*self.inside, "ip", "neighbour", "replace", HERE, "lladdr", NOWHERE, "dev", "there", "nud", "permanent")

    def mend(self) -> None:
        call("ip", "neighbour", "del", THERE, "dev", "here")
        call(*self.inside, "ip", "neighbour", "del", HERE, "dev", "there")

    def __call__(self, step: int) -> None:
        if self.ended:
            self.steps.append(time.monotonic() - self.ended)
        if step in (JOINED, BACK):
            until(self._worker_there)
        if step == CUT:
            self.cut()
        if step == MENDED:
            until(lambda: nodes() == 1)  # Ray has seen it: that node is never taken back
            self.mend()
            until(lambda: not self._worker_there())
            self.add_node()
        self.ended = time.monotonic()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{len(self.processes)}.log").open("wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))
        return self.processes[-1]

    def stop(self) -> None:
        """The head last but one; then the other host."""
        ray.shutdown()
        stop_newest_first(self.processes)
        shutil.rmtree(self.home, ignore_errors=True)


def call(*command: str) -> None:
    subprocess.run(command, check=True)


def network(process: int) -> str:
    """The network that a process is in."""
    return os.readlink(f"/proc/{process}/ns/net")


def nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {WAIT_S:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    os.environ.update({f"RAY_{key}": str(value) for key, value in HEALTH.items()})
    hosts = TwoHosts()
    try:
        hosts.start()
        ended = run(recipe("maml", Path(), STEPS), Path(sys.argv[1]), 2, after=hosts, limits=LIMITS)
        sys.stdout.write(json.dumps({**ended._asdict(), "longest_step": max(hosts.steps)}) + "\n")
    finally:
        hosts.stop()
