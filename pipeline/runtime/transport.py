"""The scheduler's actions as Ray calls, and Ray's answers as the scheduler's events."""

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
from pipeline.engine.interfaces import Chunk, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Leaving, Lost, Refused
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import Hello, TaskWorker
from pipeline.runtime.cluster import Workers, connect, draining_nodes, stop_local_raylet
from pipeline.runtime.ray_head import RayHead

DRAIN_CHECK_S = 2.0
POLL_S = 0.2
"""A signal is seen between two waits, not during one."""

WAITING_S = 30.0
"""Between two lines that say what the first worker waits for."""

NAMES_AN_ERROR = re.compile(r"(?:\w+\.)*(\w*(?:Error|Exception|Exit|Interrupt)(?::.*)?)$")
"""A traceback's line of an error: its class, without its module, and what it says."""

FULL = (
    "Ray's object store has no room for theta or a contribution, and the disk it spills to is full: free some room or "
    "ray start --object-store-memory BYTES --object-spilling-directory DIR; the last finished step is kept: --resume"
)


class Sent(NamedTuple):
    """A lease under way; ``contribution`` is the reference that goes on to the parameter actor."""

    worker: int
    lease: int
    contribution: Any


class Joining(NamedTuple):
    """A worker that is being started; after ``until`` it is started anew."""

    worker: int
    until: float
    patience: float


class RayTransport:
    """Task workers by number, on the cluster at ``address``. A worker that is replaced leaves its number behind.

    One that does not come up in ``start_s`` is started anew, with twice the patience: it may hang, or a slow machine.
    """

    def __init__(
        self, build: Callable[[], Worker], workers: Workers, address: str | None, start_s: float = Timeouts.start_s
    ) -> None:
        self.stop = Stop()
        self.ours = connect(address, workers)
        self.head = RayHead(ray.get_runtime_context().gcs_address, self.stop.check)
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

    def send(self, worker: int, lease: int, work: Work, theta: Any, chunk: Chunk) -> None:
        if work == "learn":
            contribution, report = self.actors[worker].learn.remote(theta, chunk)
        else:
            contribution, report = None, self.actors[worker].score.remote(theta, chunk)
        self.sent[report] = Sent(worker, lease, contribution)

    def replace(self, worker: int) -> None:
        self.head.wait()  # it is who starts and stops them
        self._stop(worker)
        self._start(self.start_s)

    def poll(self, seconds: float) -> Sequence[Event]:
        """Raises ``TaskError`` (or the error's own kind) when a task raised: the same task would raise elsewhere."""
        self.stop.check()
        self._restart_stalled()
        references = [*self.sent, *self.joining]
        if not references:  # workers are here, and the scheduler lets their machines rest
            time.sleep(min(seconds, POLL_S))
            return self._leaving()
        ready, _ = ray.wait(references, num_returns=1, timeout=min(seconds, POLL_S))
        if ready:  # whatever else is there is no later than the first
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        arrived = [self._arrived(reference) for reference in ready]
        return [event for event in arrived if event is not None] + self._leaving()

    def first_numerics(
        self, patience: float, note: Callable[[str], None] = lambda text: None
    ) -> tuple[dict[str, str], Sequence[Event]]:
        """Wait for a first worker, whose numerics are the run's; and the events of those that joined meanwhile.

        ``note`` is last_status what is waited for.

        Raises:
            ClusterError: none was ready in ``patience`` seconds, or one could not start.
        """
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

        That takes Ray more than a second: a process that was asked to end leaves it to end with the process. Where the
        head is gone, Ray would wait for it: everything ends by itself then.
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
        # A worker holds nothing that is worth restarting, and no call of it is sent twice: the scheduler sees to both.
        options = {"max_restarts": 0, "max_task_retries": 0, **self._options()}
        self.actors[worker] = ray.remote(TaskWorker).options(**options).remote(self.build)
        until = time.monotonic() + patience
        self.joining[self.actors[worker].hello.remote()] = Joining(worker, until, patience)

    def _restart_stalled(self) -> None:
        """Start anew what does not come up; what only waits for room loses nothing by it."""
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
            report = ray.get(reference)
        except RayError as error:
            # Nobody waits for the calls of a worker that was stopped here.
            return Lost(sent.worker, _system_failure(error)) if sent.worker in self.actors else None
        result = report if sent.contribution is None else (sent.contribution, report)
        # Machines of different kinds may well disagree about the last bits.
        return Done(sent.worker, sent.lease, result, 0 if self.workers.mixed else report.digest)

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
        """Workers on machines that are to be taken away soon."""
        now = time.monotonic()
        if now - self._drained < DRAIN_CHECK_S:
            return []
        self.head.wait()  # that is who is asked
        self._drained = now
        nodes = draining_nodes()
        return [Leaving(worker) for worker, node in self.nodes.items() if node in nodes]


def _system_failure(error: RayError) -> str:
    """Why a call failed, when the system failed; a task's own error is raised, and what fails elsewhere too."""
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
    """Whether an object, or one that was needed for it, found no room: no worker is to blame for that."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, OutOfDiskError | ObjectStoreFullError)


def constructor_cause(text: str) -> str | None:
    """What stopped an actor's constructor, in one line: Ray reports that as the actor's death, with the traceback.

    None where the actor died of something else.
    """
    return _last_error(text) if "creation task" in text else None


def no_environment(error: RuntimeEnvSetupError) -> str:
    """Ray could not make the folder or the packages that a process of this job was to have: no other try will."""
    return (
        f"Ray could not set up this job's runtime environment: {_last_error(str(error))[:300]}; correct what ray job "
        "submit or ray.init was given (working directory, pip, env_vars), and pass no --address local to a Ray job"
    )


def _last_error(text: str) -> str:
    """The last line that names an error, and the indented lines below it, where a recipe's problems stand."""
    lines = text.rstrip().splitlines()
    named = [(number, found[1]) for number, line in enumerate(lines) if (found := NAMES_AN_ERROR.match(line))]
    if not named:
        return lines[-1].strip()
    number, cause = named[-1]
    below = itertools.takewhile(lambda line: line.startswith(" "), lines[number + 1 :])
    return " ".join([cause, *(line.strip() for line in below)])
