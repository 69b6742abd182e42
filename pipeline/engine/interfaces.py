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
DESCRIPTION = "description.md"
"""The file of a finished run whose text the tracker shows as its description."""
RUN_KEY = "run_key"
"""The tag that finds a tracked run again whose id was not saved. Its value is unique."""


Place = tuple[int, int]
"""An outer step, and a slot in it."""


class Chunk(NamedTuple):
    """The tasks of one outer step that a worker computes in one call; ``number`` is the chunk's slot in the step."""

    step: int
    number: int
    tickets: tuple[Ticket, ...]


class Block(NamedTuple):
    """Chunks of one step that a worker computes in one call: 2^n of them, from a multiple of 2^n on.

    Such a block is a node of the tree over which contributions are added, so its sum may be made anywhere. It is sent
    as one contribution, in the slot of the first chunk.
    """

    chunks: tuple[Chunk, ...]

    @property
    def step(self) -> int:
        return self.chunks[0].step

    @property
    def number(self) -> int:
        """The slot of the first chunk."""
        return self.chunks[0].number

    @property
    def place(self) -> Place:
        """Where its contribution belongs."""
        return self.step, self.number

    @property
    def tickets(self) -> tuple[Ticket, ...]:
        return tuple(ticket for chunk in self.chunks for ticket in chunk.tickets)


class Report(NamedTuple):
    """The driver's report of a finished chunk: sums over its used tasks, the skipped tasks, and the seconds spent.

    ``digest`` is a checksum of the contribution: computing the chunk again must give the same. ``usage`` says how busy
    the worker's node is, by ``NODE/name``, from time to time.
    """

    step: int
    chunk: int
    used: int
    loss: float
    metrics: dict[str, float]
    skipped: tuple[str, ...]
    seconds: dict[str, float]
    digest: int
    usage: Mapping[str, float] = {}


class TaskAnswers(NamedTuple):
    """What the queries of one evaluation task were answered.

    Args:
        classes: the class in each slot, as ``Task.classes`` has it.
        given: [C, C], how many queries of slot i were answered slot j.
        bins: [3, B], of the answers in each bin of confidence: how many, how many right, the sum of confidences.
        nll: mean negative log-likelihood of the right slots, in nats.
        brier: mean squared distance of the probabilities from the right answer, summed over slots: 0 to 2.
    """

    classes: tuple[int, ...]
    given: np.ndarray
    bins: np.ndarray
    nll: float
    brier: float


class ScoreReport(NamedTuple):
    """One chunk of evaluation tasks: values [tasks, points of the trace] per metric, and the answers if asked for."""

    chunk: int
    points: tuple[int, ...]
    metrics: dict[str, np.ndarray]
    digest: int
    answers: tuple[TaskAnswers, ...] = ()


class Span(NamedTuple):
    """A block that a worker on ``node`` computed between ``began`` and ``ended``, seconds on the executor's clock.

    ``chunk`` is the block's first.
    """

    worker: int
    node: str
    work: Work
    step: int
    chunk: int
    began: float
    ended: float


class Applied(NamedTuple):
    """An outer step is done and durable; ``theta`` is a handle to the new vector, ``seconds`` the actor's own time."""

    step: int
    theta: Any
    seconds: dict[str, float]


class Missing(NamedTuple):
    """The contributions in these slots could not be fetched; their chunks must be computed again."""

    slots: tuple[int, ...]


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

    @property
    def spans(self) -> Sequence[Span]:
        """Who computed which chunk, and when: the last of this session, for people."""
        ...

    def open(self) -> Opened:
        """The state of the run. Any later call may raise ``RolledBack``."""
        ...

    def learn(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[tuple[Any, Sequence[Report]]]:
        """Contributions (handles) as they come, each with the reports of the chunks of its block.

        The first report's step and chunk are the contribution's place. Other calls may be made between two of them;
        only ``learn`` and ``score`` drop what has not come yet.
        """
        ...

    def apply(
        self, step: int, handles: Mapping[int, Any], metrics: Mapping[str, float], skipped: Sequence[str]
    ) -> Applied | Missing:
        """The outer update number ``step`` (1, 2, …) from handles by slot; idempotent. ``metrics`` are the step's."""
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


class DataSet(NamedTuple):
    """What a run's tasks are drawn from, as a tracker shows it: ``digest`` is its hash, ``facts`` all that is known."""

    name: str
    digest: str
    source: str
    facts: Mapping[str, Any]


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

    def use(self, data: DataSet) -> None:
        """Show a data set as the run's input; showing it twice shows it once."""
        ...

    def describe(self, text: str) -> None:
        """Show a description, in Markdown. It replaces an earlier one."""
        ...

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
