"""The dealer's orders as Ray calls, and what Ray says as the dealer's events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.core.failures import ClusterError, PipelineError, TaskError
from pipeline.engine.dealer import Done, Event, Joined, Lost
from pipeline.engine.protocols import Chunk, Work
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import TaskWorker
from pipeline.runtime.cluster import Workers, connect, leave

POLL_S = 0.2
"""A signal is seen between two waits, not during one."""


class Order(NamedTuple):
    """A chunk under way; ``contribution`` is the reference that goes on to the parameter actor."""

    worker: int
    round: int
    chunk: int
    contribution: Any


class RayTransport:
    """Task workers by number, on the cluster at ``address``. A lost one is replaced by a new actor under its number."""

    def __init__(self, build: Callable[[], Worker], workers: Workers, address: str) -> None:
        self.stop = Stop()
        self.ours = connect(address, workers)
        self.build, self.options = build, {"num_cpus": 1, "num_gpus": workers.gpus}
        self.numerics: dict[str, str] | None = None
        self.actors: dict[int, Any] = {}
        self.joining: dict[Any, int] = {}
        self.orders: dict[Any, Order] = {}
        for worker in range(workers.count):
            self.replace(worker)

    def replace(self, worker: int) -> None:
        self.actors[worker] = (
            ray.remote(TaskWorker).options(max_restarts=0, max_task_retries=0, **self.options).remote(self.build)
        )
        self.joining[self.actors[worker].numerics.remote()] = worker

    def send(self, worker: int, round: int, work: Work, theta: Any, chunk: Chunk) -> None:
        if work == "learn":
            contribution, report = self.actors[worker].learn.remote(theta, chunk)
        else:
            contribution, report = None, self.actors[worker].score.remote(theta, chunk)
        self.orders[report] = Order(worker, round, chunk.number, contribution)

    def poll(self) -> Sequence[Event]:
        """Raises ``TaskError`` (or the error's own kind) when a task raised: the same task would raise elsewhere."""
        self.stop.check()
        ready, _ = ray.wait([*self.orders, *self.joining], num_returns=1, timeout=POLL_S)
        return [self._arrived(reference) for reference in ready]

    def first_numerics(self, patience: float) -> tuple[dict[str, str], Sequence[Event]]:
        """Wait for a first worker, whose numerics are the run's; and the events of those that joined meanwhile.

        Raises:
            ClusterError: none was ready in ``patience`` seconds, or one could not start.
        """
        events: list[Event] = []
        deadline = time.monotonic() + patience
        while self.numerics is None:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no worker was ready in {patience:.0f} s: each asks for {self.options}, "
                    f"the cluster has {ray.available_resources()} free; wait for room or ask for less"
                )
            events += self.poll()
            lost = [event for event in events if isinstance(event, Lost)]
            if lost:
                raise ClusterError(f"a worker could not start: {lost[0].why}")
        return self.numerics, events

    def close(self) -> None:
        """Stop the workers, and the cluster too if it was started here.

        That takes Ray more than a second: a process that was asked to end leaves it to end with the process.
        """
        for actor in self.actors.values():
            ray.kill(actor)
        if self.ours and self.stop.signal is None:
            ray.shutdown()
        elif self.ours:
            leave()

    def _arrived(self, reference: Any) -> Event:
        if reference in self.joining:
            return self._joined(reference, self.joining.pop(reference))
        order = self.orders.pop(reference)
        try:
            result = ray.get(reference)
        except RayError as error:
            return Lost(order.worker, _system_failure(error))
        return Done(
            order.worker,
            order.round,
            order.chunk,
            result if order.contribution is None else (order.contribution, result),
        )

    def _joined(self, reference: Any, worker: int) -> Event:
        try:
            numerics = ray.get(reference)
        except RayError as error:
            return Lost(worker, _system_failure(error))
        if self.numerics is None:
            self.numerics = numerics
        elif numerics != self.numerics:
            differences = ", ".join(
                f"{key} {numerics.get(key)} (the run's: {value})"
                for key, value in self.numerics.items()
                if numerics.get(key) != value
            )
            raise ClusterError(
                f"worker {worker} computes with other numerics: {differences}; its results would not be the same bits"
            )
        return Joined(worker)


def _system_failure(error: RayError) -> str:
    """Why a call failed, when the system failed; a task's own error is raised."""
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        if isinstance(error.cause, PipelineError):
            raise error.cause
        raise TaskError(f"a worker raised {type(error.cause).__name__}: {error.cause}") from error
    cause = constructor_cause(str(error))
    if cause:
        raise ClusterError(f"a worker could not start: {cause}") from error
    return " ".join(str(error).split())[:300]


def constructor_cause(text: str) -> str | None:
    """Ray reports an error in an actor's constructor as the actor's death; the text's last line names the error."""
    if "creation task" not in text:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1]
