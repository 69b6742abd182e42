"""Errors of an algorithm or a source, told with the tasks in which they came."""

from __future__ import annotations

import torch

from pipeline.core.failures import PipelineError, TaskError
from pipeline.core.seeding import Ticket
from pipeline.engine.interfaces import Chunk


class error_context:
    """Turns an error of an algorithm or a source into one that names the tasks.

    Exhausted memory need not be a task's fault: it is raised as ``MemoryError``, and another worker may try.
    """

    def __init__(self, what: Chunk | Ticket) -> None:
        self.tickets = what.tickets if isinstance(what, Chunk) else (what,)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            raise MemoryError(" ".join(str(error).split())[:200]) from error
        if isinstance(error, Exception) and not isinstance(error, PipelineError | MemoryError):
            first = self.tickets[0]
            many = f" … {self.tickets[-1].id}" if len(self.tickets) > 1 else ""
            cause = " ".join(str(error).split())
            if isinstance(error, torch.OutOfMemoryError):
                cause += ". A smaller chunk_size or fewer queries need less memory, and give other bits"
            raise TaskError(
                f"task {first.id}{many} of seed {first.seed}: {type(error).__name__}: {cause}. "
                f"Reproduce: pipeline.replay(DIR, step={first.step}, number={first.number})"
            ) from error
