"""The error tree. Each error is one line that names the place, the value, what was expected and the fix.

Every subclass pickles (errors cross process borders) because its constructor takes the message alone; ``exit_code`` is
what a job ends with.
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.redact import redact


class PipelineError(Exception):
    """A failure the user can act on; printed without a traceback and without the secrets of any URI in it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class ConfigError(PipelineError):
    """A recipe or a command line that cannot be run as written."""

    exit_code = 2


class DataError(PipelineError):
    """Input data that cannot be read or cannot fill the asked tasks."""

    exit_code = 2


class ResumeError(PipelineError):
    """A run that cannot be continued as asked: no checkpoint, another recipe, other data, other numerics."""

    exit_code = 2


class ClusterError(PipelineError):
    """The cluster cannot give what the run asks for."""

    exit_code = 3


class NonFiniteError(PipelineError):
    """Too many tasks of one step gave a loss or gradient that is not finite."""

    exit_code = 4


class TaskError(PipelineError):
    """An algorithm or source raised on a task; names the task and the line that reproduces it."""

    exit_code = 5


class PoisonError(PipelineError):
    """A chunk that ends every worker that computes it."""

    exit_code = 6


class StorageError(PipelineError):
    """The run's folder cannot be written any more: full, read-only or gone. What was written before is whole."""

    exit_code = 7


class ForeignFileError(StorageError):
    """A file in a run's folder that no run writes: a link, a FIFO, a device."""

    exit_code = 2


class FencedError(PipelineError):
    """Another process has taken over this run."""

    exit_code = 8


class CorruptionError(PipelineError):
    """Two workers gave different numbers for the same chunk."""

    exit_code = 9


class SweepError(PipelineError):
    """Some children of a sweep failed. The others were trained and compared."""

    exit_code = 10


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. It is no ``Exception``, so that no handler takes it for a fault."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal, self.exit_code = signal, 128 + signal


class InternalError(PipelineError):
    """An internal error, not a user's mistake."""

    exit_code = 70
