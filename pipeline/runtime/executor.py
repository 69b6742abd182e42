"""The executor on Ray: task workers, one parameter actor, and references between them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError, RuntimeEnvSetupError

from pipeline.core.failures import ClusterError, FencedError, PipelineError
from pipeline.engine.clock import Monotonic
from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.interfaces import Applied, Missing, Opened, RolledBack, Status
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import ParameterActor
from pipeline.runtime.cluster import Workers, here
from pipeline.runtime.line import BROKEN, Line, line_to
from pipeline.runtime.ray_errors import FULL, constructor_cause, is_full, no_environment
from pipeline.runtime.reduction import FAN_IN, Summed, by_turns, summed
from pipeline.runtime.transport import POLL_S, RayTransport

END_S: Mapping[Status, float] = {"KILLED": 1.0, "FAILED": 70.0}
"""How many seconds the parameter actor has to end a run that did not finish."""
HEADLESS_S = 10.0
"""The same where the head is gone: Ray would not report that the actor went with it."""
ORPHANED_S = 1.0
"""The same where the raylet of its machine is gone: it ends with it."""
MANY = 32
"""More workers than this get no lines: over lines all contributions would pass through the driver."""


class RayExecutor(WorkerPool):
    """Runs a step's chunks on ``workers.count`` actors of the cluster at ``address`` (``local`` starts one here).

    ``pinned`` keeps the parameter actor on the driver's machine, where the run's folder or its MLflow database is.

    A parameter actor that dies or hangs is restarted from the last checkpoint. The checkpoint says whether the
    interrupted call was carried out.
    """

    def __init__(
        self,
        worker: Callable[[], Worker],
        coordinator: Callable[[], Coordinator],
        workers: Workers,
        address: str | None,
        scheduler: Scheduler,
        *,
        pinned: bool = True,
    ) -> None:
        self.ray = RayTransport(worker, workers, address, scheduler.timeouts.start_s)
        self.build, self.timeouts, self.pinned = coordinator, scheduler.timeouts, pinned
        self.parameters = self._build()
        self.line: Line | None = None
        self.opened = Opened(0, None)
        self.epoch = ""
        self.rebuilt = 0
        super().__init__(self.ray, Monotonic(), scheduler, workers=workers.count)

    def open(self) -> Opened:
        numerics, events = self.ray.first_numerics(self.timeouts.wait_s, self.note)
        self.take(events)
        self.numerics = numerics
        try:
            self.opened = self._open()
        except GetTimeoutError as error:
            raise ClusterError(
                f"the parameter actor did not start in {self.timeouts.start_s:.0f} s; "
                "see ray status, or run the driver elsewhere"
            ) from error
        except RayActorError as error:
            self._rebuild(error)
        return self.opened

    def apply(
        self, step: int, handles: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        start = time.perf_counter()
        sums = self._summed(handles)
        while True:
            try:
                # Ray does not resolve references inside a dict: the actor fetches them itself, with a time limit.
                result, theta = self._ask("apply", step, sums.handles, metrics, skipped)
                break
            except (RayActorError, GetTimeoutError) as error:
                self._rebuild(error)
            if self.opened.step >= step:  # the step was taken, and only the answer is lost
                return Applied(step, self.opened.theta, {"transport": time.perf_counter() - start})
            self._go_on_from(step - 1)
        if isinstance(result, Missing):
            return Missing(sums.beneath(result.slots))
        theta = theta if result.theta is None else self._shared(result.theta)
        self.opened, self.rebuilt = Opened(step, theta), 0
        inside = sum(result.seconds.values())
        outside = max(0.0, time.perf_counter() - start - inside)
        return Applied(step, theta, result.seconds | {"transport": result.seconds["transport"] + outside})

    def _summed(self, handles: Mapping[int, Any]) -> Summed:
        """Contributions for the parameter actor: many large ones are added up by idle workers first."""
        stored = [isinstance(one, ray.ObjectRef) for one in handles.values()]
        if any(stored):
            self._hang_up()  # references travel through Ray alone
        idle = itertools.cycle(by_turns({worker: self.scheduler.workers[worker] for worker in self.scheduler.idle}))
        fan_in = FAN_IN if all(stored) and self.scheduler.idle else len(handles)
        return summed(handles, lambda some: self.ray.add(next(idle), some), fan_in)

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        self._call("record", kind, step, metrics)

    def keep_best(self, step: int, score: float, evaluation: str) -> bool:
        return bool(self._call("keep_best", step, score, evaluation))

    def fetch(self, theta: Any) -> np.ndarray:
        return np.array(theta if isinstance(theta, np.ndarray) else self._get(theta))

    def close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        self._hang_up()
        if status == "FINISHED":
            problem = self._call("close", status, files)
        else:
            try:
                problem = _close_result(self.parameters.close.remote(status, files), self._end_s(status))
            except FencedError:
                self._leave()
                raise
        self._leave()
        return None if problem is None else str(problem)

    def _end_s(self, status: Status) -> float:
        if not self.ray.head.gone:
            return END_S[status]
        return min(END_S[status], ORPHANED_S if self.pinned and self.ray.head.raylet_gone else HEADLESS_S)

    def _leave(self) -> None:
        if not self.ray.head.gone:
            ray.kill(self.parameters)
        self.ray.close()

    def _build(self) -> Any:
        # It asks for no CPU: on the driver's machine it might wait forever for one that the workers hold.
        options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0, **(here() if self.pinned else {})}
        return ray.remote(ParameterActor).options(**options).remote(self.build, self.timeouts.fetch_s)

    def _open(self) -> Opened:
        reference, theta = self.parameters.open.remote(self.numerics)
        opened = Opened(*self._get(reference, self.timeouts.start_s))
        if opened.theta is None:
            opened = opened._replace(theta=theta)
        else:
            self.line = line_to(self.parameters, self._get(self.parameters.listen.remote()))
            opened = opened._replace(theta=self._shared(opened.theta))
        self.epoch = opened.epoch
        return opened

    def _shared(self, theta: np.ndarray) -> Any:
        """A small theta, which workers without a line to the driver read from Ray's store."""
        return ray.put(theta) if self.workers > MANY else theta

    def _hang_up(self) -> None:
        """End the line. Calls through Ray wait until then."""
        if self.line is not None:
            self.line.close()
        self.line = None

    def _call(self, method: str, *arguments: Any) -> Any:
        """Make a call that may be repeated, at the last finished step."""
        step = self.opened.step
        while True:
            try:
                return self._ask(method, *arguments)
            except (RayActorError, GetTimeoutError) as error:
                self._rebuild(error)
            self._go_on_from(step)

    def _rebuild(self, error: Exception) -> None:
        """Start another parameter actor at the last checkpoint. The old one is killed first, since it may only be
        slow."""
        self.ray.head.wait()
        self.rebuilt += 1
        if self.rebuilt > self.timeouts.rebuilds:
            reason = " ".join(str(error).split())[:200]
            raise ClusterError(f"the parameter actor was lost {self.rebuilt} times in a row; the last time: {reason}")
        self._hang_up()
        ray.kill(self.parameters)
        self.parameters = self._build()
        try:
            self.opened = self._open()
        except (RayActorError, GetTimeoutError) as again:
            self._rebuild(again)

    def _go_on_from(self, step: int) -> None:
        """Raises ``RolledBack`` where the last checkpoint is of an earlier step."""
        if self.opened.step < step:
            raise RolledBack(self.opened)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the parameter actor returns; of two objects through Ray, the second as a reference."""
        if self.line is None:
            answer = getattr(self.parameters, method).remote(*arguments)
            return (self._get(answer[0]), answer[1]) if isinstance(answer, list) else self._get(answer)
        line = self.line
        try:
            line.call(method, *arguments)
            self._wait(lambda: line.socket.poll(POLL_S), self.timeouts.answer_s)
            return line.answer()
        except BROKEN:
            self._hang_up()
        self._get(line.ended)  # raises why the line has ended
        raise GetTimeoutError("the line to the parameter actor is broken")

    def _wait(self, arrived: Callable[[], Any], seconds: float) -> None:
        """Raises ``Stopped`` on a signal."""
        deadline = time.monotonic() + seconds
        while not arrived():
            self.stop.check()
            self.ray.head.watch()
            if time.monotonic() > deadline:
                raise GetTimeoutError("the parameter actor does not answer")

    def _get(self, reference: Any, seconds: float | None = None) -> Any:
        """The object. A user's error is raised as itself, and a signal as ``Stopped``."""
        self._wait(lambda: ray.wait([reference], timeout=POLL_S)[0], seconds or self.timeouts.answer_s)
        try:
            return ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, PipelineError):
                raise error.cause from error
            if is_full(error):
                raise ClusterError(FULL) from error
            raise
        except RuntimeEnvSetupError as error:
            raise ClusterError(no_environment(error)) from error
        except RayActorError as error:
            cause = constructor_cause(str(error))
            if cause:
                raise ClusterError(f"the parameter actor could not start: {cause}") from error
            raise


def _close_result(reference: Any, limit: float) -> Any:
    """The object, or why there is none. A run that ends early must not wait for its parameter actor.

    Raises:
        FencedError: another process has taken over the run.
    """
    try:
        return ray.get(reference, timeout=limit)
    except GetTimeoutError:
        return f"the parameter actor did not answer for {limit:g} s"
    except RayError as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, FencedError):
            raise error.cause from None
        return f"the parameter actor failed: {' '.join(str(error).split())[:300]}"
