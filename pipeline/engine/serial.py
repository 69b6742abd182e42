"""The executor of one process: the same worker and keeper, no Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.engine.dealer import Crew, Done, Event, Joined
from pipeline.engine.keeper import Keeper
from pipeline.engine.protocols import Applied, Chunk, Missing, Opened, Status, Work
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

    def send(self, worker: int, round: int, work: Work, theta: Any, chunk: Chunk) -> None:
        compute = self.worker.learn if work == "learn" else self.worker.score
        self._orders.append(lambda: Done(worker, round, chunk.number, compute(theta, chunk)))

    def replace(self, worker: int) -> None:
        self._orders.append(lambda: Joined(worker))

    def poll(self) -> Sequence[Event]:
        return [self.stop.cut(self._orders.popleft())] if self._orders else []

    def close(self) -> None:
        self._orders.clear()


class SerialExecutor(Crew):
    """Runs everything here, one chunk after another."""

    def __init__(self, worker: Worker, keeper: Keeper) -> None:
        super().__init__(InProcess(worker), Monotonic(), workers=1, patience=0.0)
        self.keeper = keeper
        self.numerics = worker.fingerprint

    def open(self) -> Opened:
        return Opened(*self.keeper.open(self.numerics))

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
