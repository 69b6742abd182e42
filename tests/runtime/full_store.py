"""``python -m tests.runtime.full_store FOLDER SPILL WIDTH``: a run beside a small object store that spills to SPILL.

A process of its own: a session holds one Ray only, with a store that is large enough. Prints the outcome as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import ray
from ray._private.internal_api import node_stats

from pipeline.core.failures import PipelineError
from tests.quiet_runs import run
from tests.runtime.tiny import recipe

STORE = 80 * 2**20
STEPS = 20


def wide(width: int):
    """A recipe whose theta has ``width``² parameters, and a few more."""
    net = {"name": "mlp", "hidden": [width, width]}
    return recipe("reptile", Path(), STEPS, net=net)


class Store:
    """The local store, looked at after each step."""

    def __init__(self, spill: str) -> None:
        ray.init(
            address="local",
            num_cpus=3,
            object_store_memory=STORE,
            object_spilling_directory=spill,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        (node,) = ray.nodes()
        self.raylet = (node["NodeManagerAddress"], node["NodeManagerPort"])
        self.used: list[int] = []
        self.spilled = 0

    def __call__(self, step: int) -> None:
        stats = node_stats(*self.raylet, include_memory_info=False).store_stats
        self.used.append(stats.object_store_bytes_used)
        self.spilled = stats.spilled_bytes_total


def main(folder: str, spill: str, width: str) -> None:
    store = Store(spill)
    start = time.monotonic()
    try:
        outcome = run(wide(int(width)), Path(folder), 2, after=store)._asdict()
    except PipelineError as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    outcome |= {"seconds": time.monotonic() - start, "used": store.used, "spilled": store.spilled}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
