"""The executor on Ray: task workers, one parameter actor, and references between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from pipeline.core.failures import ClusterError, PipelineError
from pipeline.engine.dealer import Crew
from pipeline.engine.keeper import Keeper
from pipeline.engine.protocols import Applied, Missing, Opened, Status
from pipeline.engine.serial import Monotonic
from pipeline.engine.worker import Worker
from pipeline.runtime.actors import ParameterActor
from pipeline.runtime.cluster import Workers, here
from pipeline.runtime.transport import POLL_S, RayTransport, constructor_cause

END_S: Mapping[Status, float] = {"KILLED": 1.0, "FAILED": 70.0}
"""How long the parameter actor has to end a run that did not finish."""


class RayExecutor(Crew):
    """Runs a step's chunks on ``workers.count`` actors of the cluster at ``address`` (``local`` starts one here)."""

    def __init__(
        self,
        worker: Callable[[], Worker],
        keeper: Callable[[], Keeper],
        workers: Workers,
        address: str,
        patience: float,
    ) -> None:
        self.ray = RayTransport(worker, workers, address)
        self.parameters = (
            ray.remote(ParameterActor).options(max_restarts=0, max_task_retries=0, num_cpus=1, **here()).remote(keeper)
        )
        super().__init__(self.ray, Monotonic(), workers=workers.count, patience=patience)

    def open(self) -> Opened:
        numerics, events = self.ray.first_numerics(self.dealer.patience)
        for event in events:
            self.dealer.on(event)
        step, theta = self.parameters.open.remote(numerics)
        self._await(step)
        return Opened(_get(step), theta)

    def apply(
        self, step: int, handles: Mapping[int, Any], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        start = time.perf_counter()
        # References in a dict are not resolved on the way: the actor fetches them itself, with a time limit.
        outcome, theta = self.parameters.apply.remote(step, dict(handles), facts, skipped)
        self._await(outcome)
        result = _get(outcome)
        if isinstance(result, Missing):
            return result
        here_s = time.perf_counter() - start
        inside = sum(result.seconds.values())
        seconds = result.seconds | {"transport": result.seconds["transport"] + max(0.0, here_s - inside)}
        return Applied(step, theta, seconds)

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        _get(self.parameters.record.remote(kind, step, metrics))

    def keep_best(self, step: int, score: float) -> bool:
        return bool(_get(self.parameters.keep_best.remote(step, score)))

    def fetch(self, theta: Any) -> np.ndarray:
        return np.array(_get(theta))

    def close(self, status: Status, summary: Mapping[str, Any]) -> str | None:
        closed = self.parameters.close.remote(status, summary)
        if status == "FINISHED":
            self._await(closed)
            problem = _get(closed)
        else:
            problem = _last_words(closed, END_S[status])
        ray.kill(self.parameters)
        self.ray.close()
        return None if problem is None else str(problem)

    def _await(self, reference: Any) -> None:
        """Wait for an answer, however long it takes, unless a signal comes: raises ``Stopped``."""
        while not ray.wait([reference], timeout=POLL_S)[0]:
            self.stop.check()


def _get(reference: Any) -> Any:
    """The object; an error that is the user's comes out as itself."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, PipelineError):
            raise error.cause from error
        raise
    except RayActorError as error:
        cause = constructor_cause(str(error))
        if cause:
            raise ClusterError(f"the parameter actor could not start: {cause}") from error
        raise


def _last_words(reference: Any, limit: float) -> Any:
    """The object, or why there is none: a run that ends early ends, whatever became of its parameter actor."""
    try:
        return ray.get(reference, timeout=limit)
    except GetTimeoutError:
        return f"the parameter actor did not answer for {limit:g} s"
    except RayError as error:
        return f"the parameter actor failed: {' '.join(str(error).split())[:300]}"
