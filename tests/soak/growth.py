"""Memory and open files by kind of process, and how fast they grow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import psutil

PERIOD_S = 1.0


class Growth(NamedTuple):
    """Of all processes of a kind together, over the second half of the samples, when everything is warm."""

    memory_mb: float
    memory_mb_per_min: float
    memory_kb_per_step: float
    files: float
    files_per_min: float
    minutes: float

    @property
    def more_mb(self) -> float:
        return self.memory_mb_per_min * self.minutes

    @property
    def more_files(self) -> float:
        return self.files_per_min * self.minutes

    def __str__(self) -> str:
        return (
            f"{self.memory_mb:.0f} MB {self.memory_mb_per_min:+.2f} MB/min ({self.memory_kb_per_step:+.2f} KB a step), "
            f"{self.files:.0f} files {self.files_per_min:+.2f} files/min, over {self.minutes:.1f} min"
        )


class Samples:
    """Memory that is a process's own (no page that it shares) and open files, once a second."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[float, float, float, float]]] = {}
        self._next = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def take(self, processes: Mapping[str, Sequence[psutil.Process]], steps: int) -> None:
        now = time.monotonic()
        self._next = now + PERIOD_S
        for kind, members in processes.items():
            try:
                sizes = [one.memory_info() for one in members]
                files = sum(one.num_fds() for one in members)
            except psutil.Error:  # one of them ended meanwhile
                continue
            memory = sum(one.rss - one.shared for one in sizes)
            self.rows.setdefault(kind, []).append((now / 60, steps, memory / 2**20, files))

    def growth(self) -> dict[str, Growth]:
        return {kind: _growth(rows) for kind, rows in self.rows.items()}


def _growth(rows: Sequence[tuple[float, float, float, float]]) -> Growth:
    minutes, steps, memory, files = np.array(rows[len(rows) // 2 :]).T
    return Growth(
        memory_mb=float(memory[-1]),
        memory_mb_per_min=_slope(minutes, memory),
        memory_kb_per_step=_slope(steps, memory) * 1024,
        files=float(files[-1]),
        files_per_min=_slope(minutes, files),
        minutes=float(minutes[-1] - minutes[0]),
    )


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x - x[0], y, 1)[0]) if x[-1] > x[0] else 0.0
