"""The two kinds of actor: stateless task workers, and the one parameter actor around the engine's coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import RayError

from pipeline.core.types import Contribution
from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.interfaces import Applied, Block, Missing, Opened, Report, ScoreReport, Status
from pipeline.engine.outer.reduce import block_sum
from pipeline.engine.worker import Worker
from pipeline.runtime.line import Answering, is_small


class Hello(NamedTuple):
    """What a worker reports when it is ready: its numerics, its node and where it can be called over a line."""

    numerics: dict[str, str]
    node: str
    address: tuple[str, int]


class TaskWorker(Answering):
    """A worker in a process of its own."""

    def __init__(self, build: Callable[[], Worker]) -> None:
        self.worker = build()

    def hello(self) -> Hello:
        return Hello(self.worker.fingerprint, ray.get_runtime_context().get_node_id(), self.listen())

    @ray.method(num_returns=2)
    def learn(self, theta: np.ndarray, block: Block) -> tuple[Contribution, tuple[Report, ...]]:
        """Returns two objects: the contribution, for the parameter actor alone, and reports small enough to travel
        inline."""
        return self.worker.learn_block(theta, block)

    def add(self, *contributions: Contribution) -> Contribution:
        """Their sum; they are in the order of slots."""
        return block_sum(contributions[0].chunk, contributions)

    def score(self, theta: np.ndarray, block: Block) -> tuple[ScoreReport, ...]:
        return self.worker.score_block(theta, block)

    def answered(self) -> None:
        self.worker.draw_ahead()


class ParameterActor(Answering):
    """Holds theta. Large contributions arrive as references, so that they do not pass through the driver.

    Theta is returned with the outcome where it is small, and otherwise beside it, as an object for Ray's store.
    """

    def __init__(self, build: Callable[[], Coordinator], fetch_s: float) -> None:
        self.coordinator, self.fetch_s = build(), fetch_s

    @ray.method(num_returns=2)
    def open(self, numerics: dict[str, str]) -> tuple[Opened, np.ndarray | None]:
        """The state of the run, and theta."""
        opened = self.coordinator.open(numerics)
        return (opened, None) if is_small(opened.theta) else (opened._replace(theta=None), opened.theta)

    @ray.method(num_returns=2)
    def apply(
        self, step: int, contributions: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> tuple[Applied | Missing, np.ndarray | None]:
        """The outcome, and theta after it. Contributions are references, or themselves where they are small."""
        start = time.perf_counter()
        fetched, missing = _fetch(contributions, self.fetch_s)
        if missing:
            return Missing(missing), None
        fetch = time.perf_counter() - start
        seconds = {"transport": fetch, **self.coordinator.commit(step, fetched, metrics, skipped)}
        theta = self.coordinator.vector()
        return (Applied(step, theta, seconds), None) if is_small(theta) else (Applied(step, None, seconds), theta)

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        self.coordinator.record(kind, step, metrics)

    def keep_best(self, step: int, score: float, evaluation: str) -> bool:
        return self.coordinator.keep_best(step, score, evaluation)

    def close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        return self.coordinator.close(status, files)


def _fetch(references: Mapping[int, Any], seconds: float) -> tuple[list[Contribution], tuple[int, ...]]:
    """The contributions, and the slots of those that did not arrive within ``seconds``."""
    wanted = [one for one in references.values() if isinstance(one, ray.ObjectRef)]
    try:
        came = iter(ray.get(wanted, timeout=seconds))
        return [next(came) if isinstance(one, ray.ObjectRef) else one for one in references.values()], ()
    except RayError:  # one is late or was lost with its node; the scheduler assigns its chunk again
        ready, _ = ray.wait(wanted, num_returns=len(wanted), timeout=0)
    fetched, missing = [], []
    for slot, reference in references.items():
        try:
            if not isinstance(reference, ray.ObjectRef):
                fetched.append(reference)
            elif reference in ready:
                fetched.append(ray.get(reference, timeout=seconds))
            else:
                missing.append(slot)
        except RayError:
            missing.append(slot)
    return fetched, tuple(missing)
