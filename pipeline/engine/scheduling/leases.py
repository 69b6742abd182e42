"""The running median of durations, from which the lengths of leases and the times of copies follow."""

from __future__ import annotations

import statistics
from collections import deque

from pipeline.engine.interfaces import Work
from pipeline.engine.scheduling.timeouts import Timeouts

MEMORY = 64


class LeaseTimes:
    """The last ``MEMORY`` durations in seconds of each kind of work."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.durations: dict[Work, deque[float]] = {"learn": deque(maxlen=MEMORY), "score": deque(maxlen=MEMORY)}

    def add(self, work: Work, seconds: float) -> None:
        self.durations[work].append(seconds)

    def lease(self, work: Work) -> float:
        """Seconds that a worker may keep a chunk."""
        known = self.durations[work]
        usual = self.timeouts.lease_factor * statistics.median(known) if known else self.timeouts.first_lease_s
        return max(self.timeouts.lease_s, usual)

    def copy_after(self, work: Work) -> float:
        """Seconds after which an idle worker gets a copy of a chunk."""
        known = self.durations[work]
        if not known:
            return float("inf")
        return max(self.timeouts.copy_s, self.timeouts.copy_factor * statistics.median(known))
