"""Who computed which block of chunks, and when: kept for people, and read by nothing that decides."""

from __future__ import annotations

from collections import deque

from pipeline.engine.interfaces import Block, Span, Work
from pipeline.engine.scheduling.events import Id

KEPT = 4096
"""The most spans that are kept, the last ones."""


class Timeline:
    """The spans of leases that ended with an answer."""

    def __init__(self) -> None:
        self.spans: deque[Span] = deque(maxlen=KEPT)
        self._open: dict[Id, tuple[int, Work, Block, float]] = {}

    def begin(self, worker: Id, lease: int, work: Work, block: Block, now: float) -> None:
        """A worker is given a block; it has one at a time."""
        self._open[worker] = (lease, work, block, now)

    def end(self, worker: Id, lease: int, node: str, now: float) -> None:
        """A worker has answered. Answers to a lease that it no longer holds are not shown."""
        if worker in self._open and self._open[worker][0] == lease:
            _, work, block, began = self._open.pop(worker)
            self.spans.append(Span(worker, node, work, block.step, block.number, began, now))
