"""The executor of one process: the same worker and coordinator, no Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.engine.clock import Monotonic
from pipeline.engine.durability.coordinator import Coordinator
from pipeline.engine.interfaces import Applied, Block, Missing, Opened, Status, Work
from pipeline.engine.scheduling.events import Done, Event, Joined, Lost
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import OnPoison, Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.engine.stop import Stop
from pipeline.engine.worker import Worker


class InProcess:
    """A transport to the one worker in this process. ``poll`` carries out a lease."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.stop = Stop()
        self._leases: deque[Callable[[], Event]] = deque([lambda: Joined(0)])

    def send(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> None:
        self._leases.append(lambda: self._carry_out(worker, lease, work, theta, block))

    def replace(self, worker: int) -> None:
        self._leases.append(lambda: Joined(worker))

    def poll(self, seconds: float) -> Sequence[Event]:
        return [self.stop.interruptible(self._leases.popleft())] if self._leases else []

    def close(self) -> None:
        self._leases.clear()

    def _carry_out(self, worker: int, lease: int, work: Work, theta: Any, block: Block) -> Event:
        try:
            result = self.worker.learn_block(theta, block) if work == "learn" else self.worker.score_block(theta, block)
        except MemoryError as error:
            return Lost(worker, f"this machine has no memory left ({error})")
        return Done(worker, lease, result)


class SerialExecutor(WorkerPool):
    """Runs all chunks in this process, in order."""

    def __init__(self, worker: Worker, coordinator: Coordinator, on_poison: OnPoison = "abort") -> None:
        super().__init__(InProcess(worker), Monotonic(), Scheduler(Timeouts(), on_poison), workers=1)
        self.coordinator = coordinator
        self.numerics = worker.fingerprint
        self.epoch = ""

    def open(self) -> Opened:
        opened = self.coordinator.open(self.numerics)
        self.epoch = opened.epoch
        return opened

    def apply(
        self, step: int, handles: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        seconds = self.coordinator.commit(step, [handles[slot] for slot in sorted(handles)], metrics, skipped)
        return Applied(step, self.coordinator.vector(), seconds)

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        self.coordinator.record(kind, step, metrics)

    def keep_best(self, step: int, score: float, evaluation: str) -> bool:
        return self.coordinator.keep_best(step, score, evaluation)

    def fetch(self, theta: Any) -> Any:
        return theta

    def close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        if status == "FINISHED":  # the run is on disk; the rest may be interrupted
            return self.stop.interruptible(lambda: self.coordinator.close(status, files))
        return self.coordinator.close(status, files)
