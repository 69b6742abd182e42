"""Workers that compute a case's chunk, and count what they call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from pipeline.core.algorithm import Algorithm
from pipeline.core.types import Context, Score
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.testing.case import TASKS, Case


def _altered(algorithm: Algorithm[Any, Any], **calls: Callable[..., Any]) -> Any:
    """A copy of the algorithm with some of its calls replaced."""
    altered = copy.copy(algorithm)
    for name, call in calls.items():
        setattr(altered, name, call)
    return altered


def with_loss(case: Case) -> Case:
    """The case of an algorithm that reports its query loss too: accuracy alone is too coarse to compare."""

    def score(adapted: Any, query: Any, context: Context) -> Score:
        score = case.algorithm.score(adapted, query, context)
        return score._replace(metrics=score.metrics | {"loss": score.loss})

    return case._replace(algorithm=_altered(case.algorithm, score=score))


def by_worker(case: Case, what: str, vectorise: bool, compute: Callable[[Worker], Any]) -> Any:
    """What a worker computes. It must call the algorithm's ``what`` once for all tasks together, or once for each."""
    call, calls = getattr(case.algorithm, what), []

    def note(*arguments: Any) -> Any:
        calls.append(what)
        return call(*arguments)

    worker = worker_of(case._replace(algorithm=_altered(case.algorithm, **{what: note})), vectorise)
    calls.clear()  # theta was made meanwhile
    computed = compute(worker)
    # To score them, one task is computed first, to count what it needs.
    wanted = 1 + (what == "trace") if vectorise else TASKS
    assert len(calls) == wanted, f"{what} was called {len(calls)} times for {TASKS} tasks, expected {wanted}"
    return computed


def worker_of(case: Case, vectorise: bool) -> Worker:
    numerics = Numerics(dtype="float64", device="cpu", vectorise=vectorise)
    return Worker(case.algorithm, case.source, case.layout(), numerics, TASKS)
