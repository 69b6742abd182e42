"""The running median of a chunk's duration, from which the lengths of leases and the times of copies follow."""

from __future__ import annotations

import statistics
from collections import deque

from pipeline.engine.interfaces import Work
from pipeline.engine.scheduling.timeouts import Timeouts

MEMORY = 64


class LeaseTimes:
    """The seconds a chunk took in the last ``MEMORY`` leases of each kind of work."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.durations: dict[Work, deque[float]] = {"learn": deque(maxlen=MEMORY), "score": deque(maxlen=MEMORY)}
        self.median: dict[Work, float | None] = {"learn": None, "score": None}

    def add(self, work: Work, seconds: float) -> None:
        """A chunk took so long."""
        self.durations[work].append(seconds)
        self.median[work] = statistics.median(self.durations[work])

    def lease(self, work: Work, chunks: int = 1) -> float:
        """Seconds that a worker may keep a block of ``chunks``."""
        median = self.median[work]
        usual = self.timeouts.first_lease_s if median is None else self.timeouts.lease_factor * median
        return max(self.timeouts.lease_s, usual * chunks)

    def copy_after(self, work: Work, chunks: int = 1) -> float:
        """Seconds after which idle workers take over a block's chunks, or one gets a copy of a chunk."""
        median = self.median[work]
        if median is None:
            return float("inf")
        return max(self.timeouts.copy_s, self.timeouts.copy_factor * median * chunks)
