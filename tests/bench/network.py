"""A cluster of Ray in virtual time: what a step's messages cost the driver, the workers and the parameter actor."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.interfaces import Block, Report, Work
from pipeline.engine.scheduling.events import Done, Event, Joined
from pipeline.engine.stop import Stop


@dataclass(frozen=True)
class Costs:
    """Seconds: of messages and objects as ``ray_costs`` measures them, and of each byte of a vector.

    The defaults were measured on a busy machine of 2 cores, the least of several trials, in November 2026.
    """

    call_s: float = 2.2e-4  # the driver, for a call with two results
    answer_s: float = 1.6e-5  # the driver, for a report
    wait_s: float = 1.3e-7  # the driver, for each reference in each wait; a poll waits twice
    latency_s: float = 6e-4  # one way
    object_s: float = 1.0e-3  # the actor, for each contribution of another node, whatever its size
    near_s: float = 4e-5  # the same for one of its own node
    put_s: float = 1.7e-10  # a byte into the object store
    add_s: float = 7e-10  # a byte of a sum
    step_s: float = 2.5e-9  # a byte of theta in the optimizer's step
    copy_s: float = 4e-10


@dataclass(frozen=True)
class Cluster:
    """``workers`` on nodes of ``per_node``. The driver and the actor are on the first, beside its workers.

    A chunk takes ``chunk_s``, give or take ``spread`` of it, and a worker is ``uneven`` faster or slower. Each node has
    one link to the others. Theta leaves the actor's node once for each other node, or, with ``tree``, in rounds in
    which each node that has it passes it on.
    """

    workers: int
    size: int  # bytes of theta
    chunk_s: float
    per_node: int = 16
    link: float = 1.25e9  # bytes per second, 10 Gbit/s
    spread: float = 0.1
    uneven: float = 0.0
    tree: bool = False
    costs: Costs = field(default_factory=Costs)

    @property
    def nodes(self) -> int:
        return -(-self.workers // self.per_node)

    def theta_there(self, node: int) -> float:
        """Seconds until a node has theta."""
        rounds = node.bit_length() if self.tree else node
        return rounds * self.size / self.link

    def added(self, parts: float) -> float:
        """Seconds of a sum."""
        return max(0.0, parts - 1) * self.size * self.costs.add_s


class CpuClock:
    """Virtual seconds, in which the Python of the driver takes as long as it does here.

    What the transport does is charged by ``spend``, and its own Python is free.
    """

    def __init__(self) -> None:
        self.seconds, self.python_s, self._mark = 0.0, 0.0, time.thread_time()

    def now(self) -> float:
        self.stop()
        return self.seconds

    def stop(self) -> None:
        """Charge the Python since ``go`` or the last ``stop``."""
        passed = time.thread_time() - self._mark
        self.seconds += passed
        self.python_s += passed
        self._mark = time.thread_time()

    def go(self) -> None:
        self._mark = time.thread_time()


class SimulatedRay:
    """The transport of a cluster. Contributions stay where they are computed until the actor gets them."""

    def __init__(self, cluster: Cluster, seed: int = 0) -> None:
        self.cluster, self.clock, self.stop = cluster, CpuClock(), Stop()
        self.random = random.Random(seed)
        self.pace = [self.random.uniform(1 - cluster.uneven, 1 + cluster.uneven) for _ in range(cluster.workers)]
        self.messages, self.driver_s, self.last = 0, 0.0, 0.0
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Event]] = []
        for worker in range(cluster.workers):
            self._later(0.0, Joined(worker, f"node {worker // cluster.per_node}"))

    def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
        self.clock.stop()
        cluster, costs = self.cluster, self.cluster.costs
        self.messages += 1
        self._spend(costs.call_s)
        start = max(self.clock.seconds + costs.latency_s, theta[worker // cluster.per_node])
        compute = sum(
            cluster.chunk_s * self.random.uniform(1 - cluster.spread, 1 + cluster.spread) for _ in block.chunks
        )
        compute *= self.pace[worker]
        sums = (len(block.chunks) - 1) * costs.add_s * cluster.size
        end = start + compute + sums + costs.put_s * cluster.size
        reports = tuple(Report(chunk.step, chunk.number, 1, 0.0, {}, (), {}, 0) for chunk in block.chunks)
        self._later(end + costs.latency_s, Done(worker, lease, (worker // cluster.per_node, reports)))
        self.clock.go()

    def replace(self, worker: int) -> None:
        raise AssertionError("no worker is lost here")

    def poll(self, seconds: float) -> Sequence[Event]:
        self.clock.stop()
        next_at = self._due[0][0] if self._due else self.clock.seconds + seconds
        self.clock.seconds = max(self.clock.seconds, min(next_at, self.clock.seconds + seconds))
        self._spend(2 * self.cluster.costs.wait_s * len(self._due))
        events = []
        while self._due and self._due[0][0] <= self.clock.seconds:
            events.append(heapq.heappop(self._due)[2])
        self._spend(self.cluster.costs.answer_s * len(events))
        self.clock.go()
        return events

    def close(self) -> None:
        self._due.clear()

    def _spend(self, seconds: float) -> None:
        self.driver_s += seconds
        self.clock.seconds += seconds

    def _later(self, at: float, event: Event) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), event))
