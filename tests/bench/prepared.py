"""Workers whose programs are prepared at once: a measurement has no time to wait for the calls before that.

A program gives the same bits, so when it is prepared changes nothing but the speed of the first steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.build import BuildWorker
from pipeline.engine import program
from pipeline.engine.worker import Worker

AT_ONCE = 1
NEVER = 1 << 60


@dataclass(frozen=True)
class BuildPrepared:
    """Builds a recipe's worker in the calling process, which prepares programs after ``AT_ONCE`` calls from then on."""

    recipe: str

    def __call__(self) -> Worker:
        set_calls(AT_ONCE)
        return BuildWorker(self.recipe)()


@contextmanager
def prepared_after(calls: int) -> Iterator[None]:
    """Programs are prepared after so many calls within the block."""
    before = set_calls(calls)
    try:
        yield
    finally:
        set_calls(before)


def set_calls(calls: int) -> int:
    """The calls before a program is prepared, in this process; returns what it was."""
    before, program.PREPARED_AFTER = program.PREPARED_AFTER, calls
    return before
