"""Backs off nodes that lose workers repeatedly: no chunks are sent to them for a while."""

from __future__ import annotations

from pipeline.engine.scheduling.timeouts import Timeouts

FORGIVEN = 0.25
"""Losses that one finished chunk makes up for."""


class Quarantine:
    """A node is backed off after its second loss, each time twice as long. One loss is an accident."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.losses: dict[str, float] = {}
        self.until: dict[str, float] = {}

    def lost(self, node: str, now: float) -> float | None:
        """A worker was lost there; returns for how many seconds the node is backed off now, if it is."""
        losses = self.losses[node] = self.losses.get(node, 0.0) + 1.0
        if losses < 2.0:
            return None
        shortest, longest = self.timeouts.backoff_s
        backoff: float = min(shortest * 2.0 ** (losses - 2.0), longest)
        self.until[node] = now + backoff
        return backoff

    def done(self, node: str) -> None:
        """A chunk was finished there."""
        if node in self.losses:
            self.losses[node] = max(0.0, self.losses[node] - FORGIVEN)

    def available(self, node: str, now: float) -> bool:
        return now >= self.until.get(node, now)
