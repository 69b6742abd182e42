"""What a run prints: progress during training, the table at its end, and the paths of its files."""

from __future__ import annotations

import io
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.core.failures import DataError
from pipeline.core.losses import loss_of_metric
from pipeline.core.world import ENVIRONMENT_STEPS
from pipeline.engine.evaluate import Row
from pipeline.engine.loop import validation_note
from pipeline.runs.doctor import Finding
from pipeline.runs.recorded import RESULTS, Result, baselines, unit_of

LINE_S = 5.0


class Progress:
    """Shows a bar on a terminal. Elsewhere, as in a job's log, it prints the first step, the last and one each 5 s.

    ``heading`` is printed when training starts, so that the error of a refused run stands alone.
    """

    def __init__(
        self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic, heading: str = ""
    ) -> None:
        self._stream = stream or sys.stdout
        self._heading = heading
        self._now = now
        self._console = Console(file=self._stream, highlight=False)
        self._bar: Bar | None = None
        self._bar_id = TaskID(0)
        self._steps = self._done = 0
        self._began = 0.0
        self._printed_at: float | None = None
        self._pending: tuple[int, str] | None = None

    def start(self, steps: int, done: int) -> None:
        """Start at step ``done`` of ``steps``; a resumed run begins after 0."""
        self._steps, self._done, self._began = steps, done, self._now()
        if self._heading:
            self.note(self._heading)
        if not (self._stream.isatty() and self._console.is_interactive):
            return
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
        )
        self._bar_id = self._bar.add_task("", total=steps, completed=done)
        self._bar.start()

    def step(self, step: int, loss: float, metrics: Mapping[str, float], tasks_per_s: float) -> None:
        """Outer step number ``step`` is done. Of ``metrics``, the first that tasks are judged by is shown."""
        facts = [f"loss {loss:.4f}"]
        judged = [name for name in metrics if loss_of_metric(name)]
        for name in (judged or list(metrics))[:1]:
            unit = unit_of({}, name)
            facts.append(f"{name} {_value(metrics[name], unit)}{_behind(unit)}")
        facts.append(f"{tasks_per_s:,.{0 if tasks_per_s >= 10 else 1}f} tasks/s")
        if ENVIRONMENT_STEPS in metrics:
            facts.append(f"{metrics[ENVIRONMENT_STEPS] * tasks_per_s:,.0f} environment steps/s")
        text = "  ".join(facts)
        if self._bar is not None:
            self._bar.update(self._bar_id, completed=step, description=text)
            return
        self._pending = (step, text)
        if self._printed_at is None or step >= self._steps or self._now() - self._printed_at >= LINE_S:
            self._print_line()

    def validated(self, step: int, row: Row, best: bool) -> None:
        """Print the validation of a step."""
        self.note(validation_note(step, row, best))

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, emoji=False, soft_wrap=True)
        else:
            self._write(text)

    def close(self) -> None:
        """Leave the last state on the screen, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._pending is not None:
            self._print_line()

    def _print_line(self) -> None:
        if self._pending is None:
            return
        step, text = self._pending
        self._pending, self._printed_at = None, self._now()
        line = f"step {step:>{len(str(self._steps))}}/{self._steps}  {text}"
        if self._done < step < self._steps:
            left = (self._printed_at - self._began) / (step - self._done) * (self._steps - step)
            line += f"  {timedelta(seconds=round(left))} left"
        self._write(line)

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def final_table(evaluation: Mapping[str, Any], results: Path = RESULTS) -> str:
    """An evaluation as a table with the recorded baselines of the same tasks, or with a line that says why there are
    none."""
    asked = evaluation["hash"]
    try:
        found = baselines(asked, results)
    except DataError as error:
        return f"{result_table(evaluation)}\nno baselines: {error}"
    if found:
        return result_table(evaluation, found)
    why = f"none is recorded for evaluation {asked[:12]}" if results.is_dir() else f"there is no folder {results}"
    return (
        f"{result_table(evaluation)}\nno baselines: {why}; python -m jobs.compare PROTOCOL records them for a "
        "protocol's tasks"
    )


def result_table(evaluation: Mapping[str, Any], beside: Sequence[Result] = ()) -> str:
    """An evaluation as a table: one row for each point of the trace, mean ± 95% interval over tasks of each metric.

    ``evaluation`` has the keys split, tasks, hash, normalisation, ways, shots, queries, settings, and rows of theta
    (``last`` or ``best``), point (inner steps taken), metric, mean and ci95. Accuracy is shown in percent. Each method
    in ``beside`` adds its final scores and its normalisation. ``set`` is the split set; rows on other data than the
    run's own say so under ``other_data``.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in evaluation["rows"]))
    thetas = list(dict.fromkeys(row["theta"] for row in evaluation["rows"]))
    other = _other_data(evaluation)
    columns = {"method": bool(beside), "theta": len(thetas) > 1, "data": bool(other), "inner steps": True}

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in (name for name, shown in columns.items() if shown):
        table.add_column(column)
    for metric in metrics:
        table.add_column(metric, justify="right")

    def add(method: str, theta: str, steps: str, values: Mapping[str, str], data: str = "") -> None:
        first = {"method": method, "theta": _THETA.get(theta, theta), "data": data, "inner steps": steps}
        table.add_row(
            *(text for name, text in first.items() if columns[name]), *(values.get(metric, "") for metric in metrics)
        )

    for theta, steps, values in _points(evaluation):
        add("this run", theta, steps, values, other)
    for one in beside:
        add(f"{one.method} ({one.evaluation['normalisation']})", "last", *in_the_end(one.evaluation))
    return f"{title_of(evaluation)}\n{plain(table)}"


def in_the_end(evaluation: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The last theta's final point as text: the inner steps taken, and each metric."""
    _, steps, values = [point for point in _points(evaluation) if point[0] == "last"][-1]
    return steps, values


def _points(evaluation: Mapping[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """Each point as text: which theta, the inner steps taken, and each metric."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for row in evaluation["rows"]:
        unit = unit_of(evaluation, row["metric"])
        spread = "" if math.isnan(row["ci95"]) else f" ± {_value(row['ci95'], unit)}"
        text = f"{_value(row['mean'], unit)}{spread}{_behind(unit)}"
        cells.setdefault((row["theta"], row["point"]), {})[row["metric"]] = text
    counts = Counter(theta for theta, _ in cells)
    return [(theta, _inner_steps(point, counts[theta]), values) for (theta, point), values in cells.items()]


def findings_table(findings: Sequence[Finding]) -> str:
    """The doctor's findings: one line for each check, with the fix where it failed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("", "check", "found", "fix"):
        table.add_column(column)
    for one in findings:
        table.add_row("ok" if one.good else "FAIL", one.check, one.found, "" if one.good else one.fix)
    return plain(table)


def key_values(rows: Mapping[str, object]) -> str:
    """One ``name  value`` on each line, values aligned. Nothing is cut or wrapped, so that paths and links can be
    copied."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


_THETA = {"last": "last", "best": "best on validation"}


def title_of(evaluation: Mapping[str, Any]) -> str:
    """An evaluation's conditions in a line: split, tasks and their shape, normalisation and hash."""
    ways, shots, queries = evaluation["ways"], evaluation["shots"], evaluation["queries"]
    several = ways > 1
    shape = f"{ways}-way {shots}-shot" if several else f"{shots}-shot"
    asked = f"{queries} {'query' if queries == 1 else 'queries'}{' per class' if several else ''}"
    # Rotations were a field of their own before a source could have settings.
    settings = evaluation.get("settings", {key: evaluation[key] for key in ("rotations",) if key in evaluation})
    said = "".join(f", {name} {value}" for name, value in settings.items())
    split = f"{evaluation['split']} split{' of ' if evaluation.get('set') else ''}{evaluation.get('set', '')}"
    other = _other_data(evaluation)
    return (
        f"{split}{f' ({other})' if other else ''}, {evaluation['tasks']} tasks: {shape}, {asked}{said},"
        f" normalisation {evaluation['normalisation']}, evaluation {evaluation['hash'][:12]}"
    )


def _other_data(evaluation: Mapping[str, Any]) -> str:
    return next((str(row["other_data"]) for row in evaluation["rows"] if row.get("other_data")), "")


def _inner_steps(point: int, points: int) -> str:
    """The label of a point. A method whose trace has one point adapts at once and has no point before."""
    if points == 1 and point == 0:
        return "adapted"
    return "before adaptation" if point == 0 else str(point)


def _value(value: float, unit: str) -> str:
    return f"{value:.2%}" if unit == "share" else f"{value:.3f}"


def _behind(unit: str) -> str:
    return f" {unit}" if unit not in ("", "share") else ""


def plain(table: Table) -> str:
    """The table as text, the same on a terminal and in a file, and as wide as it needs to be."""
    stream = io.StringIO()
    Console(file=stream, width=1000, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().strip("\n").splitlines())
