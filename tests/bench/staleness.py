"""``python -m tests.bench.staleness``: what ``max_staleness`` brings where a step has few chunks for each worker.

The real pool and scheduler run against a cluster in virtual time, as in ``simulate``.
"""

from __future__ import annotations

import argparse

from pipeline.engine.chunks import chunks_of
from pipeline.runtime.reduction import FAN_IN
from tests.bench.network import Cluster
from tests.bench.simulate import CHUNK_NS, pool_on, reduced

STALENESS = (0, 1, 3, 7)


def efficiency(cluster: Cluster, chunks: int, staleness: int) -> float:
    """The share of time in which workers compute, over the steps at one theta, of ``chunks`` for each worker.

    Each step is applied when its last contribution is there, while workers go on with later steps. Idle workers add
    contributions up, if there are any.
    """
    count = chunks * cluster.workers
    steps = range(1, staleness + 2)
    wanted = [one for step in steps for one in chunks_of(0, step, count, 1, purpose="train", split="train")]
    came: dict[int, dict[int, int]] = {step: {} for step in steps}
    left, now = dict.fromkeys(steps, count), 1
    ray, pool = pool_on(cluster, blocks=True)
    theta = [cluster.theta_there(node) for node in range(cluster.nodes)]
    for node, reports in pool.learn(theta, wanted):
        step = reports[0].step
        came[step][reports[0].chunk] = node
        left[step] -= len(reports)
        while left.get(now) == 0:
            ray.clock.stop()
            ray.clock.seconds += sum(
                reduced(cluster, came[now], FAN_IN if pool.scheduler.idle else len(came[now])).values()
            )
            ray.clock.go()
            now += 1
    return len(steps) * chunks * cluster.chunk_s / ray.clock.now()


def main() -> None:
    described = argparse.ArgumentParser(prog="python -m tests.bench.staleness", description=__doc__)
    described.add_argument("--parameters", type=int, default=100_000)
    described.add_argument("--chunks", type=int, default=2, help="of a step, for each worker")
    described.add_argument("--uneven", type=float, default=0.2, help="how much faster or slower a worker may be")
    described.add_argument("--workers", type=int, nargs="+", default=(2, 8, 32, 100))
    described.add_argument("--chunk-ns", type=float, default=CHUNK_NS, help="of a chunk's time, for each parameter")
    asked = described.parse_args()
    print("| workers |" + "".join(f" staleness {one} |" for one in STALENESS) + "\n" + "|---:" * 5 + "|")
    for workers in asked.workers:
        cluster = Cluster(workers, 4 * asked.parameters, asked.chunk_ns * 1e-9 * asked.parameters, uneven=asked.uneven)
        found = [efficiency(cluster, asked.chunks, staleness) for staleness in STALENESS]
        print(f"| {workers} |" + "".join(f" {one:.1%} |" for one in found))


if __name__ == "__main__":
    main()
