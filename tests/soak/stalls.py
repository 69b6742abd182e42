"""When the steps of a run were done, and how long each fault kept it from the next."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Fault(NamedTuple):
    """``at`` is in seconds of the wall clock, as the journal's times are."""

    kind: str
    at: float


class Steps:
    """The journal of a run while it is written: ``times[n]`` is when step n + 1 was done, in seconds."""

    def __init__(self, run: Path) -> None:
        self.path = run / "journal.jsonl"
        self.times: list[float] = []
        self._read = 0

    def read(self) -> None:
        """Take up the lines that have come since; a line without its end waits for the next call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole = file.read()
        whole = whole[: whole.rfind(b"\n") + 1]
        self._read += len(whole)
        entries = [json.loads(line) for line in whole.splitlines()]
        self.times += [entry["timestamp"] / 1000 for entry in entries if entry["kind"] == "train"]

    def rate(self, since: float, until: float) -> float:
        """Steps a second between two times."""
        return (bisect_right(self.times, until) - bisect_right(self.times, since)) / (until - since)


class Stalls(NamedTuple):
    """Seconds lost to each fault of a kind: those that were alone, and those that shared their stall with another."""

    alone: list[float]
    shared: list[float]

    @property
    def median(self) -> float:
        """Of those that were alone."""
        return median(self.alone or [0.0])

    def __str__(self) -> str:
        worst = max(self.shared, default=0.0)
        alone = f"median {self.median:.1f} s, worst {max(self.alone, default=0.0):.1f} s of {len(self.alone)}"
        return f"{alone}; {len(self.shared)} more with another fault in them, worst {worst:.1f} s"


def stalls(times: Sequence[float], faults: Sequence[Fault]) -> dict[str, Stalls]:
    """By kind of fault, from the fault to the next step, or from that to the one after it, whichever took longer.

    What is lost may show only then: the step under way can have had all it needed. A stall is shared where another
    fault lies between the last step before and the second one after.
    """
    found: dict[str, Stalls] = {}
    for fault in faults:
        after = bisect_right(times, fault.at)
        if not 0 < after < len(times) - 1:
            continue
        before, first, second = times[after - 1 : after + 2]
        alone = sum(before <= other.at <= second for other in faults) == 1
        kind = found.setdefault(fault.kind, Stalls([], []))
        (kind.alone if alone else kind.shared).append(max(first - fault.at, second - first))
    return found
