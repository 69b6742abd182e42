"""The engine's interfaces: a clock, a transport, an executor and a tracker, and the messages between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from pipeline.core.seeding import Ticket
from pipeline.engine.stop import Stop

Status = Literal["FINISHED", "FAILED", "KILLED"]
Work = Literal["learn", "score"]
RUN_KEY = "run_key"
"""The tag that finds a tracked run again whose id was not saved. Its value is unique."""


class Chunk(NamedTuple):
    """The tasks of one outer step that a worker computes in one call; ``number`` is the chunk's slot in the step."""

    step: int
    number: int
    tickets: tuple[Ticket, ...]


class Report(NamedTuple):
    """The driver's report of a finished chunk: sums over its used tasks, the skipped tasks, and the seconds spent.

    ``digest`` is a checksum of the contribution: computing the chunk again must give the same.
    """

    chunk: int
    used: int
    loss: float
    metrics: dict[str, float]
    skipped: tuple[str, ...]
    seconds: dict[str, float]
    digest: int


class ScoreReport(NamedTuple):
    """One chunk of evaluation tasks: values [tasks, points of the trace] per metric."""

    chunk: int
    points: tuple[int, ...]
    metrics: dict[str, np.ndarray]
    digest: int


class Applied(NamedTuple):
    """An outer step is done and durable; ``theta`` is a handle to the new vector, ``seconds`` the actor's own time."""

    step: int
    theta: Any
    seconds: dict[str, float]


class Missing(NamedTuple):
    """The contributions of these chunks could not be fetched; they must be computed again."""

    chunks: tuple[int, ...]


class Opened(NamedTuple):
    """The state of a run when it is opened: the last finished step, a handle to theta, and notes to print.

    ``epoch`` names the claim under which its files are written.
    """

    step: int
    theta: Any
    notes: tuple[str, ...] = ()
    epoch: str = ""


class RolledBack(Exception):
    """The parameter actor was restarted from a checkpoint older than the requested step; ``opened`` is its state."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(f"back at step {opened.step}")
        self.opened = opened


class Entry(NamedTuple):
    """One line of the metrics journal, keyed (run, kind, step); ``timestamp`` in ms, fixed when first written."""

    kind: str
    step: int
    timestamp: int
    metrics: dict[str, float]


class Scorer(Protocol):
    """Scores evaluation tasks somewhere."""

    def score(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[ScoreReport]: ...


class Executor(Scorer, Protocol):
    """Runs the work of an outer step. The loop sees no other interface."""

    workers: int
    note: Callable[[str], None]
    epoch: str
    """The claim under which the run's files are written; empty before the run is open."""

    @property
    def numerics(self) -> Mapping[str, str]: ...

    @property
    def stop(self) -> Stop: ...

    def open(self) -> Opened:
        """The state of the run. Any later call may raise ``RolledBack``."""
        ...

    def learn(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, Report]]:
        """Each chunk's contribution (a handle) and report, as they come."""
        ...

    def apply(
        self, step: int, handles: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        """The outer update number ``step`` (1, 2, …); idempotent. ``metrics`` are the step's metrics."""
        ...

    def record(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        """Journal metrics that are not an outer step's, such as those of the kind ``evaluation/KEY``."""
        ...

    def keep_best(self, step: int, score: float, evaluation: str) -> bool:
        """Save the theta of ``step`` apart if ``score`` (higher is better) is the best so far. Returns whether it is.

        Scores of another ``evaluation`` (its key) are not compared: the first of a new one is the best.
        """
        ...

    def fetch(self, theta: Any) -> np.ndarray:
        """The vector behind a handle."""
        ...

    def close(self, status: Status, files: Mapping[str, bytes]) -> str | None:
        """End the run, with files by name beside what it wrote. Returns what could not be sent to the tracker.

        A killed run takes at most a second.

        Raises:
            FencedError: another process has taken over the run, and with it the tracked run.
        """
        ...


class Tracker(Protocol):
    """Shows runs to people. It is called from a background thread only, and may be slow or fail."""

    def start(self, run: str | None, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Reopen ``run``, or else the one with the same tag ``RUN_KEY``, or else create one; returns its id.

        Identical params and tags may be sent again.
        """
        ...

    def send(self, entries: Sequence[Entry]) -> None:
        """Metrics, batched; sending an entry twice stores it once."""
        ...

    def tag(self, tags: Mapping[str, str]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file."""
        ...

    def model(self, name: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        """The model of these files of the run: once, however often it is sent."""
        ...

    def end(self, status: Status) -> None: ...


class Clock(Protocol):
    """Seconds on a clock that never goes back."""

    def now(self) -> float: ...
