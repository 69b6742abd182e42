"""``python -m tests.runtime.drill KIND FOLDER``: a run on a cluster of several nodes, one kind of fault done to them.

A process of its own: a session holds one Ray only, and these clusters are broken on purpose. Prints the outcome as
JSON. The head has the driver and the parameter actor; each other node has room for one worker.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipeline.engine.scheduling.timeouts import Timeouts
from tests.quiet_runs import run
from tests.runtime.tiny import recipe

STEPS = 60
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}
LIMITS = Timeouts(wait_s=60.0, first_lease_s=30.0, lease_s=2.0, fetch_s=5.0)


class Drill:
    """The cluster, and what is done to it after which step."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": HEALTH})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.times: list[float] = []
        ray.init(self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def __call__(self, step: int) -> None:
        self.times.append(time.monotonic())
        if self.kind == "nodes" and step == 15:
            self.cluster.remove_node(self.nodes[0], allow_graceful=False)
        if self.kind == "nodes" and step == 30:
            self.cluster.add_node(num_cpus=1)
        if self.kind == "drain" and step == 15:
            self.cluster.add_node(num_cpus=1)
            self._drain(self.nodes[0].node_id)

    def _drain(self, node: str) -> None:
        subprocess.run(
            ["ray", "drain-node", "--address", self.cluster.address, "--node-id", node]
            + ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a drill"]
            + ["--deadline-remaining-seconds", "300"],
            check=True,
            capture_output=True,
        )

    def outcome(self, folder: Path) -> dict[str, object]:
        ended = run(recipe("maml", folder, STEPS), folder, 2, after=self, timeouts=LIMITS)
        gaps = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        return {**ended._asdict(), "longest_step": max(gaps), "nodes": len(alive)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(Drill(sys.argv[1]).outcome(Path(sys.argv[2]))) + "\n")
