"""Turns the scheduler's actions into Ray calls, and Ray's answers into the scheduler's events."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait as wait_for
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from pipeline.core.failures import ClusterError
from pipeline.engine.durability.identity import changed_numerics
from pipeline.engine.interfaces import Block, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Leaving, Lost, Refused
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import Hello, TaskWorker
from pipeline.runtime.cluster import Workers, connect, draining_nodes, own_raylet, resources, stop_local_raylet
from pipeline.runtime.line import BROKEN, Line, is_small, line_to
from pipeline.runtime.placement import crowded
from pipeline.runtime.ray_errors import system_failure
from pipeline.runtime.ray_head import RayHead

DRAIN_CHECK_S = 2.0
POLL_S = 0.2
"""How many seconds one wait takes: a signal is noticed between two waits."""

BOTH_S = 0.02
"""The same while answers are waited for over lines and through Ray."""

WAITING_S = 30.0
"""Seconds between two lines that say what the first worker waits for."""


class Sent(NamedTuple):
    """A running lease. ``contribution`` is the reference for the parameter actor, where it comes through Ray."""

    worker: int
    lease: int
    work: Work
    contribution: Any = None


class Joining(NamedTuple):
    """A worker that is starting. After ``until`` it is restarted."""

    worker: int
    until: float
    patience: float


class RayTransport:
    """Task workers by number, on the cluster at ``address``. A replacement gets a new number.

    A worker that does not start within ``start_s`` is restarted with twice the time: it hangs, or its machine is slow.
    """

    def __init__(
        self, build: Callable[[], Worker], workers: Workers, address: str | None, start_s: float = Timeouts.start_s
    ) -> None:
        self.stop = Stop()
        self.ours = connect(address, workers)
        self.head = RayHead(ray.get_runtime_context().gcs_address, own_raylet(), self.stop.check)
        self.build, self.workers, self.start_s = build, workers, start_s
        self.numerics: dict[str, str] | None = None
        self.actors: dict[int, Any] = {}
        self.nodes: dict[int, str] = {}
        self.joining: dict[Any, Joining] = {}
        self.sent: dict[Any, Sent] = {}
        self.addresses: dict[int, tuple[str, int]] = {}
        """Where workers listen that were not called yet."""
        self.lines: dict[int, Line] = {}
        self.called: dict[int, Sent] = {}
        """The lease that a worker carries out over its line."""
        self._numbers = itertools.count()
        self._drained = 0.0
        for _ in range(workers.count):
            self._start(start_s)

    def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
        line = self._line(worker, theta)
        if line is not None:
            self.called[worker] = Sent(worker, lease, work)
            try:
                line.call(work, theta, block)
            except BROKEN:
                self._broken(worker)
        elif work == "learn":
            contribution, reports = self.actors[worker].learn.remote(theta, block)
            self.sent[reports] = Sent(worker, lease, work, contribution)
        else:
            self.sent[self.actors[worker].score.remote(theta, block)] = Sent(worker, lease, work)

    def add(self, worker: int, contributions: Sequence[Any]) -> Any:
        """A reference to the sum, which this worker makes."""
        self._hang_up(worker)  # calls through Ray wait until then
        return self.actors[worker].add.remote(*contributions)

    def replace(self, worker: int) -> None:
        self.head.wait()  # the head starts and stops them
        self._stop(worker)
        self._start(self.start_s)

    def poll(self, seconds: float) -> Sequence[Event]:
        """Raises ``TaskError`` (or the error's own class) when a task raised, since it would raise on any worker."""
        self.stop.check()
        self._restart_stalled()
        wait, references = min(seconds, POLL_S), [*self.sent, *self.joining]
        if not (self.called or references):  # workers exist, and the scheduler has backed off their nodes
            time.sleep(wait)
        heard = self._hear(min(wait, BOTH_S) if references else wait)
        ready: list[Any] = []
        if references:
            ready, _ = ray.wait(references, num_returns=1, timeout=0 if self.called or heard else wait)
        if ready:  # whatever else is ready is taken along with the first
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        arrived = heard + [self._arrived(reference) for reference in ready]
        return [event for event in arrived if event is not None] + self._leaving()

    def _hear(self, seconds: float) -> list[Event | None]:
        """The answers over lines, for which it waits at most so long."""
        talking: dict[Any, int] = {self.lines[worker].socket: worker for worker in self.called}
        if not talking:
            return []
        heard = [self._answered(talking[one]) for one in wait_for(list(talking), seconds)]
        if not heard:  # a machine that vanishes does not close its lines
            for worker in talking.values():
                if ray.wait([self.lines[worker].ended], timeout=0)[0]:
                    self._broken(worker)
        return heard

    def _answered(self, worker: int) -> Event | None:
        try:
            answer = self.lines[worker].answer()
        except BROKEN:
            self._broken(worker)
            return None
        return self._done(self.called.pop(worker), answer)

    def _broken(self, worker: int) -> None:
        """The worker's line has ended, or it cannot be used: Ray will say why."""
        self.sent[self.lines[worker].ended] = self.called.pop(worker)
        self._hang_up(worker)

    def _line(self, worker: int, theta: Any) -> Line | None:
        """The line to a worker; None for a theta that is too large, or in the store."""
        if not is_small(theta):
            self._hang_up(worker)  # calls through Ray wait until then
        elif worker not in self.lines and worker in self.addresses:
            line = line_to(self.actors[worker], self.addresses.pop(worker))
            if line is not None:
                self.lines[worker] = line
        return self.lines.get(worker)

    def _hang_up(self, worker: int) -> None:
        line = self.lines.pop(worker, None)
        if line is not None:
            line.close()

    def first_numerics(
        self, patience: float, note: Callable[[str], None] = lambda text: None
    ) -> tuple[dict[str, str], Sequence[Event]]:
        """Wait for the first worker, whose numerics become the run's. Returns them and the events of all that joined.

        ``note`` receives what is waited for.

        Raises:
            ClusterError: none was ready in ``patience`` seconds, or one could not start.
        """
        if told := crowded(resources(), self.workers.count, self.workers.gpus):
            note(told)
        joined: list[Event] = []
        last = ""
        began = last_status = time.monotonic()
        while self.numerics is None:
            now = time.monotonic()
            if now > began + patience:
                raise ClusterError(
                    f"no worker was ready in {patience:.0f} s: {self._room()}; wait for room or ask for less{last}"
                )
            if now > last_status + WAITING_S:
                last_status = now
                note(f"no worker is ready after {now - began:.0f} s, {patience:.0f} s at most: {self._room()}")
            for event in self.poll(1.0):
                if isinstance(event, Lost):
                    last = f". The last that was lost: {event.why}"
                    self.replace(event.worker)
                else:
                    joined.append(event)
        return self.numerics, joined

    def close(self) -> None:
        """Stop the workers, and the cluster too if it was started here.

        Ray takes more than a second for this, so a process that was asked to end lets Ray end with it. Where the head
        is gone Ray would wait for it, and everything ends by itself.
        """
        if self.head.gone:
            return
        for worker in list(self.actors):
            self._stop(worker)
        if self.ours and self.stop.signal is None:
            ray.shutdown()
        elif self.ours:
            stop_local_raylet()

    def _room(self) -> str:
        free = ray.available_resources()
        return (
            f"each asks for 1 CPU and {self.workers.gpus:g} GPU, "
            f"the cluster has {free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU free"
        )

    def _options(self) -> dict[str, float]:
        return {"num_cpus": 1, "num_gpus": self.workers.gpus}

    def _start(self, patience: float) -> None:
        worker = next(self._numbers)
        # No restarts and no retries by Ray: the scheduler replaces workers and assigns chunks again.
        options = {"max_restarts": 0, "max_task_retries": 0, **self._options()}
        self.actors[worker] = ray.remote(TaskWorker).options(**options).remote(self.build)
        until = time.monotonic() + patience
        self.joining[self.actors[worker].hello.remote()] = Joining(worker, until, patience)

    def _restart_stalled(self) -> None:
        """Restart workers that do not start in time. A worker that waits for room loses nothing by it."""
        now = time.monotonic()
        for reference, joining in list(self.joining.items()):
            if now > joining.until:
                self.head.wait()
                del self.joining[reference]
                self._stop(joining.worker)
                self._start(2 * joining.patience)

    def _stop(self, worker: int) -> None:
        actor = self.actors.pop(worker, None)
        self.nodes.pop(worker, None)
        self.called.pop(worker, None)
        self._hang_up(worker)
        if actor is not None:
            ray.kill(actor)

    def _arrived(self, reference: Any) -> Event | None:
        if reference in self.joining:
            return self._joined(reference, self.joining.pop(reference).worker)
        sent = self.sent.pop(reference)
        try:
            reports = ray.get(reference)
        except RayError as error:
            # The calls of a worker that was stopped here have no reader.
            return Lost(sent.worker, system_failure(error)) if sent.worker in self.actors else None
        if reports is None:
            return Lost(sent.worker, "the line to it is broken")
        return self._done(sent, reports if sent.work == "score" else (sent.contribution, reports))

    def _done(self, sent: Sent, result: Any) -> Event:
        reports = result if sent.work == "score" else result[1]
        # Different machines may differ in the last bits, so their contributions are not compared.
        digest = () if self.workers.mixed else tuple(report.digest for report in reports)
        return Done(sent.worker, sent.lease, result, digest)

    def _joined(self, reference: Any, worker: int) -> Event | None:
        try:
            hello: Hello = ray.get(reference)
        except RayError as error:
            return Lost(worker, system_failure(error)) if worker in self.actors else None
        if self.numerics is None:
            self.numerics = hello.numerics
        elif hello.numerics != self.numerics and not self.workers.mixed:
            return Refused(
                worker,
                f"it computes with other numerics, {changed_numerics(self.numerics, hello.numerics)}, and would give "
                "other bits. Use machines of one kind, or numerics.mixed=true, which gives up reproducing the run",
            )
        self.nodes[worker], self.addresses[worker] = hello.node, hello.address
        return Joined(worker, hello.node)

    def _leaving(self) -> list[Event]:
        """The workers on nodes that are being drained."""
        now = time.monotonic()
        if now - self._drained < DRAIN_CHECK_S:
            return []
        self.head.wait()  # that is who is asked
        self._drained = now
        nodes = draining_nodes()
        return [Leaving(worker) for worker, node in self.nodes.items() if node in nodes]
