"""The children of a sweep: how each ended, which is the best by validation, and the table of all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from pipeline.comparison.leaderboard import markdown, shown
from pipeline.core.failures import DataError
from pipeline.engine.durability.journal import Journal
from pipeline.storage import storage_at
from pipeline.storage.interface import Storage
from pipeline.sweeps.space import Values

FOLDER = "children"
"""The folder of the records in a sweep's folder."""
State = Literal["finished", "stopped", "failed"]
STATES: tuple[State, ...] = ("finished", "stopped", "failed")
MAX_REASON = 100
"""The characters of a reason in the table. The record has all of it."""


class Judge(NamedTuple):
    """The metric that children are compared by, and the validation tasks that all of them have."""

    metric: str
    higher_is_better: bool
    unit: str
    tasks: str
    """The hash of the tasks."""


@dataclass(frozen=True)
class Child:
    """A child that has ended. ``score`` is its mean over validation tasks, and ``ci95`` half the 95% interval.

    Attributes:
        number: From 1.
        values: What it was trained with, by dotted key.
        state: ``stopped`` was behind the others on validation, ``failed`` has a ``reason`` and no score.
        step: Outer steps taken.
        curve: Step and score of each validation on the way.
        seconds: The time that it took in the process that ended it.
        run: The id of its MLflow run; empty where it failed before it began.
        timestamp: When it ended, in ms.
    """

    number: int
    values: Values
    state: State
    score: float | None
    ci95: float | None
    step: int
    curve: tuple[tuple[int, float], ...]
    seconds: float
    run: str
    timestamp: int
    reason: str = ""

    def save(self, storage: Storage) -> None:
        storage.write(f"{FOLDER}/{self.number:04d}.json", (json.dumps(asdict(self), indent=2) + "\n").encode())


def load(storage: Storage) -> list[Child]:
    """The children that have ended, by number.

    Raises:
        DataError: a file is no record of a child.
    """
    return [_child(storage, f"{FOLDER}/{name}") for name in storage.names(FOLDER) if name.endswith(".json")]


def _child(storage: Storage, name: str) -> Child:
    try:
        found = json.loads(storage.read(name) or b"")
        found["curve"] = tuple((int(step), float(score)) for step, score in found["curve"])
        child = Child(**found)
        if child.state not in STATES or f"{child.number:04d}.json" != name.rpartition("/")[2]:
            raise ValueError("another state or number")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{storage.where}/{name}: is no record of a child ({error!r}); remove it, and --resume looks at the "
            "child's run again"
        ) from None
    return child


def ranked(children: Sequence[Child], judge: Judge) -> list[Child]:
    """The best first: children that finished, then those that were stopped, then those that failed."""
    sign = -1.0 if judge.higher_is_better else 1.0
    return sorted(
        children,
        key=lambda one: (STATES.index(one.state), math.inf if one.score is None else sign * one.score, one.number),
    )


def best_of(children: Sequence[Child], judge: Judge) -> Child | None:
    """The finished child with the best score."""
    return next((one for one in ranked(children, judge) if one.state == "finished"), None)


def score_text(child: Child, judge: Judge) -> str:
    if child.score is None:
        return "–"
    return shown(child.score, math.nan if child.ci95 is None else child.ci95, judge.unit)


def table(children: Sequence[Child], judge: Judge) -> str:
    """Markdown, the best first."""
    if not children:
        return "no child has ended yet"
    keys = list(children[0].values)
    rows = [
        [str(one.number), *(one.values[key] for key in keys), score_text(one, judge), f"{one.step:,}", _ending(one)]
        for one in ranked(children, judge)
    ]
    return markdown(["child", *keys, f"validation {judge.metric}", "steps", "state"], rows)


def _ending(child: Child) -> str:
    reason = " ".join(child.reason.split()).replace("|", "/")
    cut = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…"
    return f"{child.state}: {cut}" if reason else child.state


def as_csv(children: Sequence[Child], judge: Judge) -> str:
    """The table with full numbers."""
    keys = list(children[0].values) if children else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["child", *keys, judge.metric, "ci95", "step", "state", "reason", "seconds", "run"])
    for one in ranked(children, judge):
        values = [one.values[key] for key in keys]
        writer.writerow(
            [one.number, *values, one.score, one.ci95, one.step, one.state, one.reason, one.seconds, one.run]
        )
    return text.getvalue()


def as_json(children: Sequence[Child], judge: Judge) -> str:
    """All records and the metric, the best first."""
    facts: dict[str, Any] = {**judge._asdict(), "children": [asdict(one) for one in ranked(children, judge)]}
    return json.dumps(facts, indent=2) + "\n"


def curve_of(folder: str, metric: str) -> tuple[tuple[int, float], ...]:
    """Step and mean of each validation in a run's journal, after the last inner step."""
    journal, prefix = Journal(storage_at(folder)), f"val/{metric}/after_"
    journal.load()
    found = []
    for entry in journal.since(0):
        points = {int(name.removeprefix(prefix).partition("_")[0]): name for name in entry.metrics if prefix in name}
        if entry.kind.startswith("validation/") and points:
            found.append((entry.step, entry.metrics[points[max(points)]]))
    return tuple(found)
