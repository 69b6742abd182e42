"""The executor of one process: the same worker and keeper, no Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.engine.durability.coordinator import Keeper
from pipeline.engine.interfaces import Applied, Chunk, Missing, Opened, Status, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Lost
from pipeline.engine.scheduling.pool import Crew
from pipeline.engine.scheduling.scheduler import Dealer, OnPoison
from pipeline.engine.scheduling.timeouts import Limits
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker


class Monotonic:
    """The real clock."""

    def now(self) -> float:
        return time.monotonic()


class InProcess:
    """A transport to the one worker of this process: an order is carried out when it is asked after."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.stop = Stop()
        self._orders: deque[Callable[[], Event]] = deque([lambda: Joined(0)])

    def send(self, worker: int, order: int, work: Work, theta: Any, chunk: Chunk) -> None:
        self._orders.append(lambda: self._carry_out(worker, order, work, theta, chunk))

    def replace(self, worker: int) -> None:
        self._orders.append(lambda: Joined(worker))

    def poll(self, seconds: float) -> Sequence[Event]:
        return [self.stop.cut(self._orders.popleft())] if self._orders else []

    def close(self) -> None:
        self._orders.clear()

    def _carry_out(self, worker: int, order: int, work: Work, theta: Any, chunk: Chunk) -> Event:
        try:
            result = self.worker.learn(theta, chunk) if work == "learn" else self.worker.score(theta, chunk)
        except MemoryError as error:
            return Lost(worker, f"this machine has no memory left ({error})")
        return Done(worker, order, result)


class SerialExecutor(Crew):
    """Runs everything here, one chunk after another."""

    def __init__(self, worker: Worker, keeper: Keeper, on_poison: OnPoison = "abort") -> None:
        super().__init__(InProcess(worker), Monotonic(), Dealer(Limits(), on_poison), workers=1)
        self.keeper = keeper
        self.numerics = worker.fingerprint

    def open(self) -> Opened:
        return self.keeper.open(self.numerics)

    def apply(
        self, step: int, handles: Mapping[int, Any], facts: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        seconds = self.keeper.apply(step, [handles[chunk] for chunk in sorted(handles)], facts, skipped)
        return Applied(step, self.keeper.vector(), seconds)

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        self.keeper.record(kind, step, metrics)

    def keep_best(self, step: int, score: float) -> bool:
        return self.keeper.keep_best(step, score)

    def fetch(self, theta: Any) -> Any:
        return theta

    def close(self, status: Status, summary: Mapping[str, Any]) -> str | None:
        if status == "FINISHED":  # all is on disk: what is left may be cut
            return self.stop.cut(lambda: self.keeper.close(status, summary))
        return self.keeper.close(status, summary)
