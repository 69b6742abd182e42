"""How many workers a cluster has room for. A worker is on one node, and a share of a GPU is of one GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.core.failures import ClusterError


def room(nodes: Sequence[Mapping[str, float]], gpus: float) -> int:
    """How many workers that ask for a CPU and ``gpus`` GPUs each can be placed on nodes with these resources.

    >>> room([{"CPU": 16, "GPU": 2}], 0.4)  # two on each GPU: a fifth would need parts of both
    4
    """
    return sum(_room_on(node, gpus) for node in nodes)


def _room_on(node: Mapping[str, float], gpus: float) -> int:
    cpus, there = int(node.get("CPU", 0.0)), node.get("GPU", 0.0)
    if gpus == 0:
        return cpus
    fitting = int(there) * math.floor(1 / gpus + 1e-9) if gpus < 1 else int(there // gpus)
    return min(cpus, fitting)


def check_resources(nodes: Sequence[Mapping[str, float]], gpus: float) -> None:
    """Raises ``ClusterError`` where no worker can ever be placed. Fewer workers than asked for are allowed."""
    if room(nodes, 0.0) < 1:
        cpus = sum(node.get("CPU", 0.0) for node in nodes)
        raise ClusterError(f"the cluster has {cpus:g} CPUs; each worker needs one: add a node, or ray start --num-cpus")
    if room(nodes, gpus) < 1:
        total, most = (reduce(node.get("GPU", 0.0) for node in nodes) for reduce in (sum, max))
        raise ClusterError(
            f"workers.gpus: each worker asks for {gpus:g} GPU and a CPU on one node; the cluster has {total:g} GPU, "
            f"a node {most:g} at the most; use workers.gpus=0 numerics.device=cpu, or nodes with more"
        )


def crowded(nodes: Sequence[Mapping[str, float]], count: int, gpus: float) -> str:
    """What to tell where there is no room for all workers; else nothing."""
    placed = room(nodes, gpus)
    if placed >= count:
        return ""
    return (
        f"the nodes that are there now have room for {placed} of {count} workers with 1 CPU and {gpus:g} GPU each; "
        "the others wait for room, and the result is the same without them"
    )
