"""What Ray's messages cost on this machine, for ``simulate``: the medians of short trials on a cluster of two nodes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.core.seeding import Ticket
from pipeline.engine.interfaces import Block, Chunk, Report
from pipeline.engine.outer.optimizer import Outer, build_optimizer
from pipeline.engine.outer.reduce import TreeSum
from tests.bench.network import Costs

CALLS, SMALL, FLOATS = 300, 30_000, 10_000_000
"""Calls of a trial, and numbers of a small vector, which Ray's store just takes, and of a large one: 40 MB."""


class Echo:
    """Stands for a worker and for the parameter actor: it returns and takes what they do."""

    def learn(self, theta: Any, block: Block, floats: int) -> tuple[np.ndarray, tuple[Report, ...]]:
        report = Report(
            block.step, block.number, 1, 0.5, {"accuracy": 0.5}, (), {"sampling": 0.1, "inner_loop": 0.2}, 1
        )
        return np.full(floats, 1.0, np.float32), (report,)

    def put_s(self, floats: int) -> float:
        import ray

        vector = np.ones(floats, np.float32)
        kept = []  # the store's pages are new each time, as a contribution's are
        return timed(lambda: kept.append(ray.put(vector)), 5)

    def apply(self, contributions: dict[int, Any]) -> float:
        """Seconds until all have been got."""
        import ray

        start = time.perf_counter()
        ray.get(list(contributions.values()))
        return time.perf_counter() - start


def timed(call: Callable[[], Any], times: int) -> float:
    """The least seconds: other processes only add to them."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measured() -> Costs:
    """All costs; takes about a minute."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "resources": {"here": 9}})
    try:
        cluster.add_node(num_cpus=4, resources={"there": 9})
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        here, there = (ray.remote(Echo).options(resources={name: 1}) for name in ("here", "there"))
        actor, near, far = here.remote(), here.remote(), there.remote()
        calls = _calls(near, ray.put(np.zeros(SMALL, np.float32)))
        objects = {"near_s": _fetched(actor, near), "object_s": _fetched(actor, far)}
        objects["put_s"] = ray.get(far.put_s.remote(FLOATS)) / (4 * FLOATS)
        return Costs(**calls, **objects, **_sums())
    finally:
        ray.shutdown()
        cluster.shutdown()


def _calls(worker: Any, theta: Any) -> dict[str, float]:
    """The driver's seconds for a call and for an answer, for each reference that is waited for, and half a round
    trip."""
    import ray

    block = Block((Chunk(1, 0, tuple(Ticket(0, "train", "train", 1, number) for number in range(4))),))

    def call() -> Any:
        return worker.learn.options(num_returns=2).remote(theta, block, SMALL)[1]

    ray.get(call())
    latency = timed(lambda: ray.get(call()), 100) / 2
    calls, answers, waits = [], [], []
    for _ in range(5):
        start = time.process_time()
        sent = [call() for _ in range(CALLS)]
        calls.append((time.process_time() - start) / CALLS)
        ray.wait(sent, num_returns=CALLS)
        waits.append(timed(lambda sent=sent: ray.wait(sent, num_returns=CALLS, timeout=0), 5) / CALLS)
        start = time.process_time()
        for one in sent:
            ray.get(one)
        answers.append((time.process_time() - start) / CALLS)
    return {"call_s": min(calls), "answer_s": min(answers), "wait_s": min(waits), "latency_s": latency}


def _fetched(actor: Any, worker: Any) -> float:
    """Seconds for each contribution that an actor gets, of a size at which its bytes hardly matter."""
    import ray

    seconds = []
    for _ in range(8):
        sent = [worker.learn.options(num_returns=2).remote(None, Block((Chunk(1, 0, ()),)), SMALL) for _ in range(100)]
        ray.get([report for _, report in sent])
        contributions = {number: contribution for number, (contribution, _) in enumerate(sent)}
        seconds.append(ray.get(actor.apply.remote(contributions)) / len(sent))
    return min(seconds)


def _sums() -> dict[str, float]:
    """Seconds for each byte of a sum over the tree, of the optimizer's step and of a copy of theta."""
    parts = [torch.ones(FLOATS) for _ in range(4)]

    def add() -> None:
        total = TreeSum()
        for slot, part in enumerate(parts):
            total.add(slot, part)
        total.total()

    theta = torch.zeros(FLOATS)
    optimizer = build_optimizer(Outer(), theta)
    theta.grad = torch.ones(FLOATS)
    optimizer.step()
    size = 4 * FLOATS
    return {
        "add_s": timed(add, 5) / 3 / size,
        "step_s": timed(optimizer.step, 5) / size,
        "copy_s": timed(lambda: theta.numpy().copy(), 5) / size,
    }
