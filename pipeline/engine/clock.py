"""The real clock, for executors; tests run in virtual time."""

from __future__ import annotations

import time


class Monotonic:
    """The real clock."""

    def now(self) -> float:
        return time.monotonic()
