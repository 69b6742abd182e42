"""``python -m tests.bench.simulate``: how a step scales from 1 to 10,000 workers, and what limits it.

The real pool and scheduler run against a cluster in virtual time (``network``), whose costs ``--measure`` measures
here. ``--check`` compares the model with real workers whose chunks sleep.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pipeline.engine.chunks import chunks_of
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.runtime.reduction import FAN_IN, summed
from tests.bench.network import Cluster, Costs, SimulatedRay

SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
WORKERS = (1, 10, 100, 1_000, 10_000)
CHUNKS = 16
"""Chunks of a step for each worker."""
CHUNK_NS = 800.0
"""Nanoseconds of a chunk for each parameter: what 16 tasks of conv-4 with 1 query took a CPU core."""

WAYS = {"one by one": (False, False), "blocks": (True, False), "blocks and sums": (True, True)}
"""Whether chunks travel in aligned blocks, and whether idle workers add up what the actor gets."""


@dataclass(frozen=True)
class Step:
    """A simulated step: its seconds, the share of them in which workers compute, and the seconds of each limit."""

    parameters: int
    workers: int
    way: str
    messages: int
    seconds: float
    efficiency: float
    limits: dict[str, float]

    @property
    def limit(self) -> str:
        """The limit that takes most of the time that is lost."""
        return "–" if self.efficiency > 0.95 else max(self.limits, key=self.limits.__getitem__)


def step(cluster: Cluster, way: str, blocks: bool, sums: bool, chunks: int = CHUNKS) -> Step:
    """One outer step of ``chunks`` for each worker, from theta at the actor to the next theta there."""
    wanted = chunks_of(0, 1, chunks * cluster.workers, 1, purpose="train", split="train")
    ray, pool = pool_on(cluster, blocks)
    theta = [cluster.theta_there(node) for node in range(cluster.nodes)]
    nodes = {reports[0].chunk: node for node, reports in pool.learn(theta, wanted)}
    learned = ray.clock.now()
    after = reduced(cluster, nodes, FAN_IN if sums else len(nodes))
    during = {"driver's calls": ray.driver_s, "scheduler": ray.clock.python_s, "broadcast of theta": theta[-1]}
    seconds = learned + sum(after.values())
    ideal = chunks * cluster.chunk_s
    return Step(cluster.size // 4, cluster.workers, way, len(nodes), seconds, ideal / seconds, during | after)


def pool_on(cluster: Cluster, blocks: bool) -> tuple[SimulatedRay, WorkerPool]:
    """Workers that have joined, at second 0. Where chunks go one by one it is not known yet how long one takes."""
    ray = SimulatedRay(cluster)
    # No copies: nobody is ill here, and a copy's only effect would be a second contribution that is not fetched.
    scheduler = Scheduler(Timeouts(first_lease_s=1e9, lease_s=1e9, copy_factor=1e9))
    pool = WorkerPool(ray, ray.clock, scheduler, workers=cluster.workers)
    pool.take(ray.poll(0.0))
    if blocks:
        scheduler.lease_times.add("learn", cluster.chunk_s)
    ray.clock.seconds = ray.clock.python_s = ray.driver_s = 0.0
    ray.clock.go()
    return ray, pool


def reduced(cluster: Cluster, nodes: Mapping[int, int], fan_in: int) -> dict[str, float]:
    """Seconds of each part between the last answer and the next theta, one after the other."""
    costs, size = cluster.costs, cluster.size
    rounds: dict[int, list[int]] = {}

    def add(parts: list[int]) -> int:
        """Parts and sums are known by the round in which they are made, 0 for what workers computed."""
        made = max(parts) + 1
        rounds.setdefault(made, []).append(len(parts))
        return made

    sums = summed(dict.fromkeys(nodes, 0), add, fan_in)
    far = len(sums.handles) * (1 - 1 / cluster.nodes)
    near = len(sums.handles) - far
    return {
        "sums on workers": sum(round_s(cluster, parts) for parts in rounds.values()),
        "actor's objects": far * costs.object_s + near * costs.near_s,
        "actor's link": far * size / cluster.link,
        "actor's sum": cluster.added(len(sums.handles)),
        "optimizer": size * (costs.step_s + 2 * costs.copy_s + costs.put_s) + 2 * costs.latency_s,
    }


def round_s(cluster: Cluster, parts: Sequence[int]) -> float:
    """Seconds of a round of calls, each of which adds so many contributions up on a worker."""
    costs, far = cluster.costs, 1 - 1 / cluster.nodes
    calls, each = -(-len(parts) // cluster.workers), sum(parts) / len(parts)
    on_link = -(-len(parts) // cluster.nodes) * each * far * cluster.size / cluster.link
    objects = calls * each * (far * costs.object_s + (1 - far) * costs.near_s)
    sums = calls * (each - 1) * cluster.size * costs.add_s + costs.put_s * cluster.size
    return len(parts) * costs.call_s + 2 * costs.latency_s + on_link + objects + sums


def table(steps: Sequence[Step]) -> str:
    """A row for each size and number of workers, with the efficiency and limit of each way."""
    lines = ["| parameters | workers | one by one | limit | blocks | limit | blocks and sums | limit | messages |"]
    lines.append("|---" * 9 + "|")
    for found in zip(*(steps[at :: len(WAYS)] for at in range(len(WAYS))), strict=True):
        first, blocks = found[0], found[1]
        ways = " | ".join(f"{one.efficiency:.1%} | {one.limit}" for one in found)
        messages = f"{first.messages:,} → {blocks.messages:,}"
        lines.append(f"| {first.parameters / 1e6:g} M | {first.workers:,} | {ways} | {messages} |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="python -m tests.bench.simulate", description=__doc__)
    described.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="parameters")
    described.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    described.add_argument("--gbit", type=float, default=10.0, help="of each node's link, per second")
    described.add_argument("--per-node", type=int, default=16, help="workers of a node")
    described.add_argument("--tree", action="store_true", help="what if nodes passed theta on")
    described.add_argument("--chunk-ns", type=float, default=CHUNK_NS, help="of a chunk's time, for each parameter")
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
    base = Cluster(1, 1, 1.0, asked.per_node, asked.gbit * 1.25e8, tree=asked.tree)
    steps = [
        step(replace(base, workers=workers, size=4 * size, chunk_s=asked.chunk_ns * 1e-9 * size), way, blocks, sums)
        for size in asked.sizes
        for workers in asked.workers
        for way, (blocks, sums) in WAYS.items()
    ]
    return print(
        json.dumps([asdict(one) | {"limit": one.limit} for one in steps], indent=1) if asked.json else table(steps)
    )


if __name__ == "__main__":
    main()
