"""What the queries of an evaluation task were answered, and what all tasks together say of classes and confidence.

T tasks, Q queries, C outputs, B bins of confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params, Task
from pipeline.engine.interfaces import TaskAnswers
from pipeline.engine.statistics import (
    BINS,
    Calibration,
    ClassAccuracy,
    Confusion,
    calibration,
    design_effect,
    wilson,
)

MOST = 100
"""Pairs of confused classes that are told."""


def summary(logits_QC: Tensor, y_Q: Tensor) -> Params:
    """The fields of ``TaskAnswers`` that logits decide, as float64 tensors. ``torch.func`` can transform it.

    Bins are closed on the right: (0, 1/15], (1/15, 2/15] …
    """
    log_p_QC = torch.log_softmax(logits_QC.double(), -1)
    p_QC = torch.softmax(logits_QC.double(), -1)
    answer_Q, confidence_Q = logits_QC.argmax(-1), p_QC.amax(-1)
    slots = torch.eye(logits_QC.shape[-1], dtype=torch.float64, device=logits_QC.device)
    asked_QC, answer_QC = slots[y_Q], slots[answer_Q]
    right_Q = (answer_Q == y_Q).double()
    edges = torch.arange(1, BINS, dtype=torch.float64, device=logits_QC.device) / BINS
    bin_Q = (confidence_Q.unsqueeze(-1) > edges).sum(-1)
    in_bin_QB = torch.eye(BINS, dtype=torch.float64, device=logits_QC.device)[bin_Q]
    return {
        "given": asked_QC.T @ answer_QC,
        "bins": torch.stack([torch.ones_like(right_Q), right_Q, confidence_Q]) @ in_bin_QB,
        "nll": -(log_p_QC * asked_QC).sum(-1).mean(),
        "brier": (p_QC - asked_QC).square().sum(-1).mean(),
    }


def task_answers(summaries: Sequence[Params], tasks: Sequence[Task[Any]]) -> tuple[TaskAnswers, ...]:
    """The answers of each task, to be sent to the driver; nothing where there are no summaries."""
    host = [{name: value.cpu().numpy() for name, value in one.items()} for one in summaries]
    return tuple(
        TaskAnswers(task.classes, one["given"].astype(np.int32), one["bins"], float(one["nll"]), float(one["brier"]))
        for one, task in zip(host, tasks, strict=True)
        if one
    )


class Tally:
    """Adds up the answers of an evaluation, chunk by chunk in any order. Its size is bounded by tasks and classes.

    Args:
        names: the names of the classes that tasks are drawn from; none where the source does not say.
        tasks: how many tasks there will be.
        chunk_size: tasks in a chunk.
    """

    def __init__(self, names: Sequence[str], tasks: int, chunk_size: int) -> None:
        self._names, self._chunk_size = names, chunk_size
        self._nll, self._brier = np.zeros((2, tasks))
        self._bins = np.zeros((3, BINS))
        # Sums of floats depend on their order: a chunk waits here for those before it.
        self._waiting: dict[int, np.ndarray] = {}
        self._next = 0
        # Of each class: tasks with it, queries n and right answers r, and the sums over tasks of n², n·r and r².
        self._sums = np.zeros((len(names), 6), np.int64)
        self._wrong = np.zeros((2, 0), np.int64)
        """Pairs (asked · classes + answered), sorted, and how often each came."""

    def add(self, chunk: int, answers: Sequence[TaskAnswers]) -> None:
        """The answers of a chunk."""
        first = chunk * self._chunk_size
        for number, one in enumerate(answers, first):
            self._nll[number], self._brier[number] = one.nll, one.brier
        self._waiting[chunk] = np.sum([one.bins for one in answers], 0)
        while self._next in self._waiting:
            self._bins += self._waiting.pop(self._next)
            self._next += 1
        if self._names:
            self._add_classes([one for one in answers if one.classes])

    def calibration(self) -> Calibration:
        """Of all answers."""
        return calibration(self._bins, self._nll, self._brier)

    def by_class(self) -> list[ClassAccuracy]:
        """The classes that were asked for, the hardest first: those whose interval ends lowest."""
        effect, found = design_effect(self._sums), []
        for name, (tasks, asked, right, *_) in zip(self._names, self._sums.tolist(), strict=True):
            if asked:
                interval = wilson(right / asked, asked / effect)
                found.append(ClassAccuracy(name, right / asked, *interval, tasks, asked))
        return sorted(found, key=lambda one: (one.high, one.accuracy, one.name))

    def confusions(self) -> list[Confusion]:
        """Pairs of classes of which one was taken for the other, the most frequent first."""
        pairs = zip(*self._wrong.tolist(), strict=True)
        named = [(*(self._names[one] for one in divmod(key, len(self._names))), times) for key, times in pairs]
        return sorted((Confusion(*one) for one in named), key=lambda one: (-one.times, one.name, one.taken_for))

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON has it: of the pairs of classes the most frequent ones."""
        found = self.calibration()
        told: dict[str, Any] = found._asdict() | {"bins": [one._asdict() for one in found.bins]}
        told |= {name: dict(zip(("mean", "ci95"), told[name], strict=True)) for name in ("nll", "brier")}
        if not self._names:
            return {"calibration": told}
        pairs = self.confusions()
        return {
            "calibration": told,
            "classes": [one._asdict() for one in self.by_class()],
            "confusions": {"pairs": len(pairs), "most": [one._asdict() for one in pairs[:MOST]]},
        }

    def _add_classes(self, answers: Sequence[TaskAnswers]) -> None:
        wrong = [self._wrong]
        for one in answers:
            classes, ways = np.array(one.classes), len(one.classes)
            asked, right = one.given[:ways].sum(1, dtype=np.int64), np.diag(one.given)[:ways].astype(np.int64)
            self._sums[classes] += np.stack(
                [np.ones_like(asked), asked, right, asked * asked, asked * right, right * right], 1
            )
            rows, columns = np.nonzero(one.given[:ways, :ways] * (1 - np.eye(ways, dtype=np.int32)))
            wrong.append(np.stack([classes[rows] * len(self._names) + classes[columns], one.given[rows, columns]]))
        together = np.concatenate(wrong, 1)
        keys, place = np.unique(together[0], return_inverse=True)
        self._wrong = np.stack([keys, np.bincount(place, together[1], len(keys)).astype(np.int64)])
