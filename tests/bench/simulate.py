"""``python -m tests.bench.simulate``: how a step scales from 1 to 10,000 workers, and what limits it.

The real pool and scheduler run against a cluster in virtual time (``network``), whose costs ``--measure`` measures
here. ``--check`` compares the model with real workers whose chunks sleep.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pipeline.engine.chunks import chunks_of
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from tests.bench.network import Cluster, Costs, SimulatedRay

SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
WORKERS = (1, 10, 100, 1_000, 10_000)
CHUNKS = 16
"""Chunks of a step for each worker."""
CHUNK_S = 50e-9
"""Seconds of a chunk for each parameter: 5 ms for 0.1 M parameters."""


@dataclass(frozen=True)
class Step:
    """A simulated step: its seconds, the share of them in which workers compute, and the seconds of each limit."""

    parameters: int
    workers: int
    blocks: bool
    messages: int
    seconds: float
    efficiency: float
    limits: dict[str, float]

    @property
    def limit(self) -> str:
        """The limit that takes most of the time that is lost."""
        return "–" if self.efficiency > 0.95 else max(self.limits, key=self.limits.__getitem__)


def step(cluster: Cluster, *, blocks: bool, chunks: int = CHUNKS) -> Step:
    """One outer step of ``chunks`` for each worker, from theta at the actor to the next theta there.

    Without ``blocks`` the scheduler does not know yet how long a chunk takes.
    """
    ray = SimulatedRay(cluster)
    # No copies: nobody is ill here, and a copy's only effect would be a second contribution that is not fetched.
    scheduler = Scheduler(Timeouts(first_lease_s=1e9, lease_s=1e9, copy_factor=1e9))
    pool = WorkerPool(ray, ray.clock, scheduler, workers=cluster.workers)
    pool.take(ray.poll(0.0))
    if blocks:
        scheduler.lease_times.add("learn", cluster.chunk_s)
    count = chunks * cluster.workers
    wanted = chunks_of(0, 1, count, 1, purpose="train", split="train")
    ray.clock.seconds = ray.clock.python_s = ray.driver_s = 0.0
    ray.clock.go()
    theta = [cluster.theta_there(node) for node in range(cluster.nodes)]
    nodes = [node for node, _ in pool.learn(theta, wanted)]
    learned = ray.clock.now()
    objects = sorted(set(nodes)) if cluster.node_sum else nodes
    limits = {
        "driver's calls": ray.driver_s,
        "scheduler": ray.clock.python_s,
        "broadcast of theta": theta[-1],
        **applied(cluster, objects),
    }
    after = ("actor's objects", "actor's link", "actor's sum", "optimizer")
    seconds = learned + sum(limits[name] for name in after) + node_sums(cluster, len(nodes))
    ideal = chunks * cluster.chunk_s
    return Step(cluster.size // 4, cluster.workers, blocks, len(nodes), seconds, ideal / seconds, limits)


def applied(cluster: Cluster, objects: Sequence[int]) -> dict[str, float]:
    """Seconds of the parameter actor's parts, one after the other, for contributions from these nodes."""
    costs, size = cluster.costs, cluster.size
    far = sum(node > 0 for node in objects)
    return {
        "actor's objects": far * costs.object_s + (len(objects) - far) * costs.near_s,
        "actor's link": far * size / cluster.link,
        "actor's sum": (len(objects) - 1) * size * costs.add_s,
        "optimizer": size * (costs.step_s + 2 * costs.copy_s + costs.put_s) + 2 * costs.latency_s,
    }


def node_sums(cluster: Cluster, contributions: int) -> float:
    """Seconds in which a node adds up what its workers sent, all nodes at once."""
    each = contributions / cluster.nodes
    return (each - 1) * cluster.size * cluster.costs.add_s if cluster.node_sum else 0.0


def simulated(sizes: Sequence[int], workers: Sequence[int], base: Cluster, blocks: Sequence[bool]) -> list[Step]:
    """All steps, in the order of the table."""
    return [
        step(replace(base, workers=count, size=4 * size, chunk_s=CHUNK_S * size), blocks=with_blocks)
        for size in sizes
        for count in workers
        for with_blocks in blocks
    ]


def table(steps: Sequence[Step]) -> str:
    """A row for each size and number of workers, with single chunks and with blocks."""
    lines = [
        "| parameters | workers | chunks one by one | limit | in blocks | limit | messages: one by one, in blocks |",
        "|---|---|---|---|---|---|---|",
    ]
    for single, blocks in zip(steps[::2], steps[1::2], strict=True):
        lines.append(
            f"| {single.parameters / 1e6:g} M | {single.workers:,} | {single.efficiency:.1%} | {single.limit} "
            f"| {blocks.efficiency:.1%} | {blocks.limit} | {single.messages:,}, {blocks.messages:,} |"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m tests.bench.simulate", description=__doc__)
    described.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="parameters")
    described.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    described.add_argument("--gbit", type=float, default=10.0, help="of each node's link, per second")
    described.add_argument("--per-node", type=int, default=16, help="workers of a node")
    described.add_argument("--tree", action="store_true", help="what if nodes passed theta on")
    described.add_argument("--node-sum", action="store_true", help="what if nodes added up before sending")
    described.add_argument("--json", action="store_true", help="the steps as JSON instead of a table")
    instead = described.add_mutually_exclusive_group()
    instead.add_argument("--measure", action="store_true", help="instead: the costs, measured on this machine")
    instead.add_argument("--check", action="store_true", help="instead: the model against 1, 2 and 4 real workers")
    return described


def main() -> None:
    asked = parser().parse_args()
    if asked.measure:
        from tests.bench import ray_costs

        return print(json.dumps(asdict(ray_costs.measured()), indent=1))
    if asked.check:
        from tests.bench import real_workers

        return print(real_workers.table(Costs()))
    base = Cluster(1, 1, 1.0, asked.per_node, asked.gbit * 1.25e8, tree=asked.tree, node_sum=asked.node_sum)
    steps = simulated(asked.sizes, asked.workers, base, (False, True))
    return print(
        json.dumps([asdict(one) | {"limit": one.limit} for one in steps], indent=1) if asked.json else table(steps)
    )


if __name__ == "__main__":
    main()
