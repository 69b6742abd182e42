"""What Ray's errors say, in one line, and which of them are a task's own."""

from __future__ import annotations

import itertools
import re

from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError, RuntimeEnvSetupError

from pipeline.core import failures
from pipeline.core.failures import ClusterError, PipelineError, TaskError

NAMES_AN_ERROR = re.compile(r"(?:\w+\.)*(\w*(?:Error|Exception|Exit|Interrupt)(?::.*)?)$")
"""A traceback's last line: the error's class without its module, and its message."""

OWN = {name for name, kind in vars(failures).items() if isinstance(kind, type) and issubclass(kind, PipelineError)}
"""Errors whose message alone tells a user what to do."""

FULL = (
    "Ray's object store has no room for theta or a contribution, and the disk it spills to is full: free some room or "
    "ray start --object-store-memory BYTES --object-spilling-directory DIR; the last finished step is kept: --resume"
)


def system_failure(error: RayError) -> str:
    """Why a call failed, where the system failed. Raises the error of a task, and errors that any worker would have."""
    if is_full(error):
        raise ClusterError(FULL) from error
    if isinstance(error, RuntimeEnvSetupError):
        raise ClusterError(no_environment(error)) from error
    if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
        cause = error.cause
        if isinstance(cause, MemoryError):
            return f"its machine has no memory left ({cause})"
        if isinstance(cause, PipelineError):
            raise cause
        raise TaskError(f"a worker raised {type(cause).__name__}: {cause}") from error
    cause_text = constructor_cause(str(error))
    if cause_text:
        raise ClusterError(f"a worker could not start: {cause_text}") from error
    return " ".join(str(error).split())[:300]


def is_full(error: Exception) -> bool:
    """Whether there was no room for an object or for one that it needed, which is not the worker's fault."""
    while isinstance(error, RayTaskError):
        error = error.cause
    return isinstance(error, OutOfDiskError | ObjectStoreFullError)


def constructor_cause(text: str) -> str | None:
    """Why an actor's constructor failed, in one line. Ray reports it as the actor's death, with the traceback.

    None where the actor died of something else.
    """
    if "creation task" not in text:
        return None
    cause = _last_error(text)
    name, _, message = cause.partition(": ")
    return message if name in OWN and message else cause


def no_environment(error: RuntimeEnvSetupError) -> str:
    """Whether Ray could not set up the runtime environment of the job; a second try would fail too."""
    return (
        f"Ray could not set up this job's runtime environment: {_last_error(str(error))[:300]}; correct what ray job "
        "submit or ray.init was given (working directory, pip, env_vars), and pass no --address local to a Ray job"
    )


def _last_error(text: str) -> str:
    """The last line that names an error, with the indented lines below it, which list a recipe's problems."""
    lines = text.rstrip().splitlines()
    named = [(number, found[1]) for number, line in enumerate(lines) if (found := NAMES_AN_ERROR.match(line))]
    if not named:
        return lines[-1].strip()
    number, cause = named[-1]
    below = itertools.takewhile(lambda line: line.startswith(" "), lines[number + 1 :])
    return " ".join([cause, *(line.strip() for line in below)])
