"""The scheduler's inputs (events) and outputs (actions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.core.failures import PipelineError
from pipeline.engine.interfaces import Block, Work

Id = int
"""A worker's number. A replacement gets a new number, so that late answers can be recognised."""


class Joined(NamedTuple):
    """A worker is ready; ``node`` is the one it runs on."""

    worker: Id
    node: str = ""


class Done(NamedTuple):
    """A worker finished the block of a lease; equal results have equal ``digest``, () for unknown."""

    worker: Id
    lease: int
    result: Any
    digest: tuple[int, ...] = ()


class Lost(NamedTuple):
    """A worker is gone; ``why`` is for people."""

    worker: Id
    why: str


class Leaving(NamedTuple):
    """A worker's node will go away soon: it may finish what it has, and gets no more."""

    worker: Id


class Refused(NamedTuple):
    """A worker must not take part. It keeps its place on its node, so that no other like it is started there."""

    worker: Id
    why: str


Event = Joined | Done | Lost | Leaving | Refused


class Assign(NamedTuple):
    """Give this block to this worker, as lease number ``lease``."""

    worker: Id
    lease: int
    block: Block


class Accept(NamedTuple):
    """This result counts for the block from slot ``number`` on; any later one for the same chunks does not."""

    number: int
    result: Any


class Replace(NamedTuple):
    """Make sure that a worker is gone, and start another in its place."""

    worker: Id


class Note(NamedTuple):
    """A line to print."""

    text: str


class Abort(NamedTuple):
    """The submitted chunks cannot be finished."""

    error: PipelineError


Action = Assign | Accept | Replace | Note | Abort


@dataclass
class Lease:
    """A block that a worker holds since ``since``, for ``seconds`` seconds."""

    number: int
    worker: Id
    submission: int
    work: Work
    block: Block
    since: float
    seconds: float
    late: bool = False

    @property
    def end(self) -> float:
        """When it ends; a worker that is late is given up after as long again."""
        return self.since + (2 if self.late else 1) * self.seconds
