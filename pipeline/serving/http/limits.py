"""What one server allows its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches

from pipeline.core.failures import ConfigError


class Refused(Exception):
    """A request that is answered with an HTTP status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


@dataclass(frozen=True)
class Limits:
    """The limits of a server; those of sessions count for each replica.

    Attributes:
        sessions: How many sessions are kept.
        session_bytes: How many bytes the adapted values of all sessions may take.
        idle_s: After how many seconds without a request a session ends.
        body_bytes: How many bytes a request's body may have.
        rows: How many rows a support or query set may have; of an agent, how many steps each episode.
        compute_s: After how many seconds of waiting and computing a request is given up.
    """

    sessions: int = 1000
    session_bytes: int = 1 << 30
    idle_s: int = 1800
    body_bytes: int = 16 << 20
    rows: int = 1000
    compute_s: int = 30


def limits_of(changes: Sequence[str]) -> Limits:
    """The limits by default, changed by ``name=value`` words.

    Raises:
        ConfigError: a name that is no limit, or a value that is no whole number above 0.

    >>> limits_of(["sessions=10"]).sessions
    10
    """
    names = [field.name for field in fields(Limits)]
    changed: dict[str, int] = {}
    for word in changes:
        name, _, value = word.partition("=")
        if name not in names:
            near = get_close_matches(name, names, 1)
            raise ConfigError(f"{word}: no limit; expected {'one of ' + ', '.join(names) if not near else near[0]}=N")
        if not (value.isascii() and value.isdigit() and int(value)):
            raise ConfigError(f"{name}: {value!r}; expected a whole number above 0")
        changed[name] = int(value)
    return Limits(**changed)
