"""Timeouts. None of them changes a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Times in seconds. A chunk's lease is ``lease_factor`` times the median of its work, and ``lease_s`` at least."""

    # Workers.
    wait_s: float = 300.0  # with no worker at all, before the run gives up
    first_lease_s: float = 600.0  # while there is no median yet
    lease_s: float = 30.0
    lease_factor: float = 5.0
    copy_factor: float = 3.0  # medians after which an idle worker gets a copy of a chunk
    copy_s: float = 0.2  # and at least this long: copying shorter ones costs more than it saves
    backoff_s: tuple[float, float] = (10.0, 100.0)  # of a node that loses its workers: the first, and the longest
    status_s: float = 10.0  # between two lines that say what is waited for
    start_s: float = 120.0  # until a worker or the parameter actor has started
    # The parameter actor.
    fetch_s: float = 30.0  # for contributions
    answer_s: float = 120.0  # for a call
    rebuilds: int = 5  # in a row, without one step done in between
