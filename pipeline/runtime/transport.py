"""Turns the scheduler's actions into Ray calls, and Ray's answers into the scheduler's events."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError, RuntimeEnvSetupError

from pipeline.core.failures import ClusterError, PipelineError, TaskError
from pipeline.engine.durability.identity import changed_numerics
from pipeline.engine.interfaces import Block, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Leaving, Lost, Refused
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import Hello, TaskWorker
from pipeline.runtime.cluster import Workers, connect, draining_nodes, own_raylet, resources, stop_local_raylet
from pipeline.runtime.placement import crowded
from pipeline.runtime.ray_head import RayHead

DRAIN_CHECK_S = 2.0
POLL_S = 0.2
"""How many seconds one wait takes: a signal is noticed between two waits."""

WAITING_S = 30.0
"""Seconds between two lines that say what the first worker waits for."""

NAMES_AN_ERROR = re.compile(r"(?:\w+\.)*(\w*(?:Error|Exception|Exit|Interrupt)(?::.*)?)$")
"""A traceback's last line: the error's class without its module, and its message."""

FULL = (
    "Ray's object store has no room for theta or a contribution, and the disk it spills to is full: free some room or "
    "ray start --object-store-memory BYTES --object-spilling-directory DIR; the last finished step is kept: --resume"
)


class Sent(NamedTuple):
    """A running lease. ``contribution`` is the reference for the parameter actor."""

    worker: int
    lease: int
    contribution: Any


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
        self._numbers = itertools.count()
        self._drained = 0.0
        for _ in range(workers.count):
            self._start(start_s)

    def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
        if work == "learn":
            contribution, reports = self.actors[worker].learn.remote(theta, block)
        else:
            contribution, reports = None, self.actors[worker].score.remote(theta, block)
        self.sent[reports] = Sent(worker, lease, contribution)

    def replace(self, worker: int) -> None:
        self.head.wait()  # the head starts and stops them
        self._stop(worker)
        self._start(self.start_s)

    def poll(self, seconds: float) -> Sequence[Event]:
        """Raises ``TaskError`` (or the error's own class) when a task raised, since it would raise on any worker."""
        self.stop.check()
        self._restart_stalled()
        references = [*self.sent, *self.joining]
        if not references:  # workers exist, and the scheduler has backed off their nodes
            time.sleep(min(seconds, POLL_S))
            return self._leaving()
        ready, _ = ray.wait(references, num_returns=1, timeout=min(seconds, POLL_S))
        if ready:  # whatever else is ready is taken along with the first
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        arrived = [self._arrived(reference) for reference in ready]
        return [event for event in arrived if event is not None] + self._leaving()

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
            return Lost(sent.worker, _system_failure(error)) if sent.worker in self.actors else None
        result = reports if sent.contribution is None else (sent.contribution, reports)
        # Different machines may differ in the last bits, so their contributions are not compared.
        digest = () if self.workers.mixed else tuple(report.digest for report in reports)
        return Done(sent.worker, sent.lease, result, digest)

    def _joined(self, reference: Any, worker: int) -> Event | None:
        try:
            hello: Hello = ray.get(reference)
        except RayError as error:
            return Lost(worker, _system_failure(error)) if worker in self.actors else None
        if self.numerics is None:
            self.numerics = hello.numerics
        elif hello.numerics != self.numerics and not self.workers.mixed:
            return Refused(
                worker,
                f"it computes with other numerics, {changed_numerics(self.numerics, hello.numerics)}, and would give "
                "other bits. Use machines of one kind, or numerics.mixed=true, which gives up reproducing the run",
            )
        self.nodes[worker] = hello.node
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


def _system_failure(error: RayError) -> str:
    """Why a call failed, where the system failed. Raises the error of a task, and errors that any worker would have."""
    if is_full(error):
        raise ClusterError(FULL) from error
    if isinstance(error, RuntimeEnvSetupError):
        raise ClusterError(no_environment(error)) from error
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        cause = error.cause
        if isinstance(cause, MemoryError):
            return f"its machine has no memory left ({cause})"
        if isinstance(cause, PipelineError):
            raise cause
        raise TaskError(f"a worker raised {type(cause).__name__}: {cause}") from error
    cause_text = constructor_cause(str(error))
    if cause_text:
        raise ClusterError(f"a worker could not start: {cause_text}") from error
    return " ".join(str(error).split())[:300]


def is_full(error: Exception) -> bool:
    """Whether there was no room for an object or for one that it needed, which is not the worker's fault."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, OutOfDiskError | ObjectStoreFullError)


def constructor_cause(text: str) -> str | None:
    """Why an actor's constructor failed, in one line. Ray reports it as the actor's death, with the traceback.

    None where the actor died of something else.
    """
    return _last_error(text) if "creation task" in text else None


def no_environment(error: RuntimeEnvSetupError) -> str:
    """Whether Ray could not set up the runtime environment of the job; a second try would fail too."""
    return (
        f"Ray could not set up this job's runtime environment: {_last_error(str(error))[:300]}; correct what ray job "
        "submit or ray.init was given (working directory, pip, env_vars), and pass no --address local to a Ray job"
    )


def _last_error(text: str) -> str:
    """The last line that names an error, with the indented lines below it, which list a recipe's problems."""
    lines = text.rstrip().splitlines()
    named = [(number, found[1]) for number, line in enumerate(lines) if (found := NAMES_AN_ERROR.match(line))]
    if not named:
        return lines[-1].strip()
    number, cause = named[-1]
    below = itertools.takewhile(lambda line: line.startswith(" "), lines[number + 1 :])
    return " ".join([cause, *(line.strip() for line in below)])
