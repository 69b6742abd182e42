"""Keeps what the model has learned for each user, bounded in number, in bytes and in idle time."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from typing import Any, NamedTuple, Protocol

from pipeline.serving.http.limits import Limits, Refused


class Clock(Protocol):
    """Tells the time; tests move it."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...


class _Session(NamedTuple):
    owner: str
    value: Any
    size: int
    used: float


class Sessions:
    """Adapted values by an id that nobody can guess. A session is its owner's alone: to others it does not exist.

    Where a limit is reached, the user with the most sessions loses the one that was used least recently. One thread
    calls this.

    Args:
        limits: of these ``sessions``, ``session_bytes`` and ``idle_s`` count here.
        clock: what idle time is measured by.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self.clock = limits, clock
        self.bytes = 0
        self.evicted: Counter[str] = Counter(number=0, bytes=0, idle=0)
        self._kept: OrderedDict[str, _Session] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, owner: str, value: Any, size: int) -> str:
        """Keep a value of ``size`` bytes; returns the id of its session.

        Raises:
            Refused: 413, the value alone is larger than all sessions may be.
        """
        if size > self.limits.session_bytes:
            raise Refused(
                413, f"session: needs {size} bytes, and the limit session_bytes is {self.limits.session_bytes}"
            )
        self.end_idle()
        while len(self._kept) >= self.limits.sessions:
            self._evict("number")
        while self.bytes + size > self.limits.session_bytes:
            self._evict("bytes")
        name = secrets.token_urlsafe(24)
        self._kept[name] = _Session(owner, value, size, self.clock.now())
        self.bytes += size
        return name

    def get(self, owner: str, name: str) -> Any:
        """The value of an owner's session, which has now been used. Raises ``Refused`` (404) where there is none."""
        self.end_idle()
        session = self._owned(owner, name)
        self._kept[name] = session._replace(used=self.clock.now())
        self._kept.move_to_end(name)
        return session.value

    def drop(self, owner: str, name: str) -> None:
        """End an owner's session. Raises ``Refused`` (404) where there is none."""
        self.end_idle()
        self._owned(owner, name)
        self._remove(name)

    def end_idle(self) -> None:
        """End the sessions that nobody has used for ``idle_s``."""
        latest = self.clock.now() - self.limits.idle_s
        while self._kept and next(iter(self._kept.values())).used < latest:
            self.evicted["idle"] += 1
            self._remove(next(iter(self._kept)))

    def _owned(self, owner: str, name: str) -> _Session:
        session = self._kept.get(name)
        if session is None or session.owner != owner:
            raise Refused(404, "session: there is none of this id; it has ended or was evicted, so adapt again")
        return session

    def _evict(self, reason: str) -> None:
        counts = Counter(session.owner for session in self._kept.values())
        most = max(counts.values())
        self._remove(next(name for name, session in self._kept.items() if counts[session.owner] == most))
        self.evicted[reason] += 1

    def _remove(self, name: str) -> None:
        self.bytes -= self._kept.pop(name).size
