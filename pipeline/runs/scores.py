"""Each evaluation task's score at a run's end: what two models are compared by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.core.failures import DataError
from pipeline.engine.evaluate import Scores
from pipeline.serving.task import SCORES


class TaskScores(NamedTuple):
    """Scores of the last theta after its last inner step, task by task.

    Args:
        evaluation: the hash of the tasks. Scores under another hash cannot be compared.
        split: where the tasks are from.
        normalisation: the mode under which they were answered.
        metric: what tasks are judged by.
        higher_is_better: its direction.
        unit: its unit, as ``TaskLoss`` has it.
        values: one score for each task.
    """

    evaluation: str
    split: str
    normalisation: str
    metric: str
    higher_is_better: bool
    unit: str
    values: list[float]


def scores_file(facts: Mapping[str, Any], scores: Scores) -> dict[str, bytes]:
    """The file ``SCORES``, given the facts of the evaluation."""
    values = scores.metrics[facts["metric"]][:, -1].tolist()
    told = TaskScores(
        facts["hash"],
        facts["split"],
        facts["normalisation"],
        facts["metric"],
        facts["higher_is_better"],
        facts["unit"],
        values,
    )
    return {SCORES: json.dumps(told._asdict()).encode()}


def read_scores(data: bytes, where: str) -> TaskScores:
    """What ``scores_file`` wrote. Raises ``DataError`` where it is something else."""
    try:
        read = TaskScores(**json.loads(data))
        values = [float(value) for value in read.values]
        if not values or not all(isinstance(text, str) for text in (read.evaluation, read.metric, read.unit)):
            raise ValueError("no values, or a name that is no text")
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: holds no scores of a run ({error}); log the run's model again") from None
    return read._replace(values=values)
