"""The training loop. It sees an executor, and neither Ray nor an algorithm."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline.core.failures import NonFiniteError
from pipeline.core.world import ENVIRONMENT_STEPS
from pipeline.engine.chunks import chunks_of
from pipeline.engine.evaluate import EvaluationPlan, Row, evaluate
from pipeline.engine.interfaces import Applied, Chunk, Executor, Report, RolledBack

MAX_SKIPPED = 0.05
"""The share of a step's tasks that may be skipped because a loss or gradient is not finite."""


@dataclass(frozen=True)
class Plan:
    """The plan of a training, determined by the recipe."""

    seed: int
    steps: int
    tasks_per_step: int
    chunk_size: int
    validation: EvaluationPlan | None
    validate_every: int
    keeps_best: bool
    """Whether the theta that is best on validation is kept."""
    max_staleness: int
    """The most outer updates that theta may have had since a step's gradient was taken."""
    metric: str
    """The metric of validation, at the last point of the trace."""
    higher_is_better: bool

    def at_one_theta(self, done: int) -> range:
        """The steps after ``done`` whose gradients are taken at the theta after it.

        The last of them is a multiple of ``max_staleness + 1``, a step with a validation, or the run's last.
        """
        spans = [1 + self.max_staleness] + ([self.validate_every] if self.validation is not None else [])
        return range(done + 1, min(self.steps, *(done - done % span + span for span in spans)) + 1)


class Enough(Exception):
    """Raised by a listener to end a run before its last step. What is done is kept, and the run can be resumed."""


class ProgressListener(Protocol):
    """Receives a run's progress. Each method may raise ``Enough``."""

    def start(self, steps: int, done: int) -> None: ...

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None: ...

    def validated(self, step: int, row: Row, best: bool) -> None:
        """The validation of ``step``: the deciding metric after the last inner step, and whether it is the best."""
        ...

    def note(self, text: str) -> None: ...


def validation_note(step: int, row: Row, best: bool) -> str:
    """What is printed of a validation."""
    spread = "" if math.isnan(row.ci95) else f" ± {row.ci95:.4f}"
    return f"step {step}: validation {row.metric} {row.mean:.4f}{spread}{' (best so far)' if best else ''}"


class TrainResult(NamedTuple):
    """The end of a run: its last theta (a handle), and seconds and tasks of this session."""

    step: int
    theta: Any
    seconds: float
    tasks: int


def train(executor: Executor, plan: Plan, listener: ProgressListener) -> TrainResult:
    """Take outer steps until ``plan.steps``, from the step at which the executor opens.

    Raises:
        NonFiniteError: more than 5% of a step's tasks gave a loss or gradient that is not finite.
    """
    executor.note = listener.note
    opened = executor.open()
    step, theta = opened.step, opened.theta
    listener.start(plan.steps, step)
    for note in opened.notes:
        listener.note(note)
    session = _Session(executor, plan, listener)
    if step:  # a crash may have come before its validation; the journal keeps the first of two entries
        session.validate(theta, step)
    while step < plan.steps:
        try:
            steps = plan.at_one_theta(step)
            theta = session.steps(theta, steps)
            step = steps[-1]
        except RolledBack as back:
            step, theta = back.opened.step, back.opened.theta
            listener.note(f"the parameter actor was lost and is back: going on after step {step}")
    last = max(plan.steps, opened.step)
    return TrainResult(last, theta, time.perf_counter() - session.started, (last - opened.step) * plan.tasks_per_step)


class _Session:
    """One session of a run, step by step."""

    def __init__(self, executor: Executor, plan: Plan, listener: ProgressListener) -> None:
        self.executor, self.plan, self.listener = executor, plan, listener
        self.started = self.before = time.perf_counter()
        # A step's timing is known only after it, so it is journaled with the next step.
        self.timing: dict[str, float] = {}

    def steps(self, theta: Any, steps: Sequence[int]) -> Any:
        """These outer steps, whose gradients are taken at this theta, and validation; returns theta after them."""
        plan = self.plan
        chunks = {
            step: chunks_of(plan.seed, step, plan.tasks_per_step, plan.chunk_size, purpose="train", split="train")
            for step in steps
        }
        contributions = Contributions(self.executor, theta, chunks)
        for staleness, step in enumerate(steps):
            theta = self.step(contributions, step, staleness)
        return theta

    def step(self, contributions: Contributions, step: int, staleness: int) -> Any:
        """The outer update number ``step``; returns theta after it."""
        facts = self.timing | ({"train/staleness": float(staleness)} if self.plan.max_staleness else {})
        applied, reports = _outer_step(self.executor, contributions, step, facts)
        now = time.perf_counter()
        self.timing = _timing(reports, applied, now - self.before, self.executor.workers)
        self.before = now
        loss, metrics = _means(reports)
        if ENVIRONMENT_STEPS in metrics:
            self.timing[f"{ENVIRONMENT_STEPS}_per_s"] = metrics[ENVIRONMENT_STEPS] * self.timing["tasks_per_s"]
        self.listener.step(step, loss, metrics, self.timing["tasks_per_s"])
        self.validate(applied.theta, step)
        return applied.theta

    def validate(self, theta: Any, step: int) -> None:
        """Score the validation tasks if ``step`` is due for it."""
        if self.plan.validation is None or step % self.plan.validate_every:
            return
        key = self.plan.validation.key
        rows = evaluate(self.executor, theta, self.plan.validation).rows()
        self.executor.record(f"validation/{key}", step, row_metrics("val", rows))
        last = [row for row in rows if row.metric == self.plan.metric][-1]
        score = last.mean if self.plan.higher_is_better else -last.mean
        best = self.plan.keeps_best and self.executor.keep_best(step, score, key)
        self.listener.validated(step, last, best)
        self.before = time.perf_counter()


class Contributions:
    """The contributions of some steps at one theta, which workers compute while earlier steps are applied."""

    def __init__(self, executor: Executor, theta: Any, chunks: Mapping[int, Sequence[Chunk]]) -> None:
        self.executor, self.theta, self.chunks = executor, theta, chunks
        self.coming = executor.learn(theta, [chunk for step in chunks.values() for chunk in step])
        self.blocks: dict[int, dict[int, tuple[Any, Sequence[Report]]]] = {step: {} for step in chunks}
        """Contributions and their reports, by step and by the slot of a block's first chunk."""

    def of(self, step: int) -> dict[int, tuple[Any, Sequence[Report]]]:
        """The contributions of a step, once all have come."""
        blocks = self.blocks[step]
        while sum(len(reports) for _, reports in blocks.values()) < len(self.chunks[step]):
            self._take(next(self.coming))
        return blocks

    def again(self, step: int, slots: Sequence[int]) -> None:
        """Have the chunks of these contributions of a step computed again: they are lost."""
        missing = {report.chunk for slot in slots for report in self.blocks[step].pop(slot)[1]}
        for one in self.coming:
            self._take(one)
        self.coming = self.executor.learn(self.theta, [chunk for chunk in self.chunks[step] if chunk.number in missing])

    def applied(self, step: int) -> None:
        """Let go of a step's contributions."""
        del self.blocks[step]

    def _take(self, contribution: tuple[Any, Sequence[Report]]) -> None:
        first = contribution[1][0]
        self.blocks[first.step][first.chunk] = contribution


def _outer_step(
    executor: Executor, contributions: Contributions, step: int, timing: dict[str, float]
) -> tuple[Applied, list[Report]]:
    """Gather the contributions of a step and apply them, until none is missing."""
    tasks = sum(len(chunk.tickets) for chunk in contributions.chunks[step])
    while True:
        blocks = contributions.of(step)
        ordered = [report for slot in sorted(blocks) for report in blocks[slot][1]]
        skipped = _skipped(ordered, tasks, step)
        loss, metrics = _means(ordered)
        facts = {"train/loss": loss, **{f"train/{name}": value for name, value in metrics.items()}, **timing}
        facts |= {f"system/{name}": value for report in ordered for name, value in report.usage.items()}
        handles = {slot: handle for slot, (handle, _) in blocks.items()}
        outcome = executor.apply(step, handles, facts | {"train/skipped": float(len(skipped))}, skipped)
        if isinstance(outcome, Applied):
            contributions.applied(step)
            return outcome, ordered
        contributions.again(step, outcome.slots)


def _skipped(reports: Sequence[Report], tasks: int, step: int) -> list[str]:
    skipped = [name for report in reports for name in report.skipped]
    if len(skipped) > MAX_SKIPPED * tasks:
        raise NonFiniteError(
            f"step {step}: {len(skipped)} of {tasks} tasks gave a loss or gradient that is not finite, "
            f"the first is {skipped[0]}. "
            f"Lower the learning rates or clip (outer.model.clip). Reproduce: "
            f"pipeline.replay(DIR, step={step}, number={skipped[0].rsplit('/', 1)[1]})"
        )
    return skipped


def _means(reports: Sequence[Report]) -> tuple[float, dict[str, float]]:
    used = sum(report.used for report in reports)
    names = sorted({name for report in reports for name in report.metrics})
    metrics = {name: sum(report.metrics.get(name, 0.0) for report in reports) / used for name in names}
    return sum(report.loss for report in reports) / used, metrics


def _timing(reports: Sequence[Report], applied: Applied, wall: float, workers: int) -> dict[str, float]:
    """Shares of a step's wall time; the unaccounted part is ``waiting``."""
    parts = {
        name: sum(report.seconds.get(name, 0.0) for report in reports) / workers / wall
        for name in ("sampling", "inner_loop")
    }
    parts |= {name: seconds / wall for name, seconds in applied.seconds.items()}
    parts["waiting"] = max(0.0, 1.0 - sum(parts.values()))
    tasks = sum(report.used + len(report.skipped) for report in reports)
    return {f"time/{name}": share for name, share in parts.items()} | {"time/step_s": wall, "tasks_per_s": tasks / wall}


def row_metrics(prefix: str, rows: Sequence[Row]) -> dict[str, float]:
    """Evaluation rows as tracker metrics: ``eval/accuracy/after_3_steps``."""
    return {f"{prefix}/{row.metric}/after_{row.point}_steps": row.mean for row in rows}
