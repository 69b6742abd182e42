"""Which machines lose their workers again and again, and how long they rest."""

from __future__ import annotations

from pipeline.engine.scheduling.timeouts import Timeouts

FORGIVEN = 0.25
"""Losses that one finished chunk makes up for."""


class Quarantine:
    """A machine rests after its second loss, each time twice as long. One loss is an accident."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.losses: dict[str, float] = {}
        self.until: dict[str, float] = {}

    def lost(self, place: str, now: float) -> float | None:
        """A worker was lost there; how long the place rests now, if it does."""
        losses = self.losses[place] = self.losses.get(place, 0.0) + 1.0
        if losses < 2.0:
            return None
        shortest, longest = self.timeouts.backoff_s
        rest: float = min(shortest * 2.0 ** (losses - 2.0), longest)
        self.until[place] = now + rest
        return rest

    def done(self, place: str) -> None:
        """A chunk was finished there."""
        if place in self.losses:
            self.losses[place] = max(0.0, self.losses[place] - FORGIVEN)

    def available(self, place: str, now: float) -> bool:
        return now >= self.until.get(place, now)
