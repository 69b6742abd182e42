"""The page of results: for each protocol a table of the recorded rows and a text about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import recipes
from pipeline.comparison.leaderboard import table, table_of_tasks
from pipeline.comparison.protocol import read
from pipeline.core.failures import DataError
from pipeline.runs.recorded import RESULTS, Result, load
from pipeline.runs.report import in_the_end

FOUND = "README.md"
"""The text about a protocol's rows: a file beside them."""


def page(results: Path = RESULTS) -> str:
    """Markdown: a section for each packaged protocol that has rows.

    Raises:
        DataError: a row or what was found in them cannot be read.
    """
    parts = [
        "# Results",
        "Made by `make docs` out of `results/`, where each row lies with its commit, its training curve "
        "and each task's score; do not edit. Mean ± 95% interval over tasks; `less X` is that of the differences to "
        "X, task by task. A trial of 15 s tells how many steps a budget of seconds is: other work on the machine then "
        "makes training take longer, not learn more.",
    ]
    for name in recipes.protocol_names():
        rows = load(results / name)
        if rows:
            parts += _section(name, rows, results / name / FOUND)
    return "\n\n".join(parts)


def _section(name: str, rows: Sequence[Result], found: Path) -> Iterator[str]:
    protocol = read(name)
    yield f"## {protocol.about}"
    yield f"`python -m jobs.compare {name}`"
    yield table(rows, protocol.columns, protocol.against)
    yield from _chosen(rows)
    tasks = table_of_tasks(rows, protocol.columns[0])
    if tasks:
        yield f"Task by task, {protocol.columns[0].replace('_', ' ')}:"
        yield tasks
    yield "\n".join(f"* {made}: {', '.join(methods)}" for made, methods in _made(rows).items())
    if found.exists():
        try:
            yield found.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise DataError(f"{found}: cannot be read ({error}); write it as UTF-8 text, or remove it") from None


def _chosen(rows: Sequence[Result]) -> Iterator[str]:
    """A line for each setting that was chosen on validation tasks."""
    found: dict[str, list[str]] = {}
    for one in rows:
        if "chosen" in one.summary:
            chosen = one.summary["chosen"]
            found.setdefault(chosen["setting"], []).append(f"{one.method} {chosen['value']:g}")
    for setting, values in found.items():
        yield f"`{setting}`, chosen on tasks of the split val: {', '.join(values)}."


def _made(rows: Sequence[Result]) -> dict[str, list[str]]:
    """Date and hardware -> the methods."""
    made: dict[str, list[str]] = {}
    for one in rows:
        made.setdefault(_where(one), []).append(one.method)
    return dict(sorted(made.items()))


def _where(one: Result) -> str:
    return f"{one.summary['date'][:10]}, {machine(one.summary)}"


def machine(run: Mapping[str, Any]) -> str:
    """The device and the executor of a run, from its summary."""
    cpu = run.get("cpu") or "a CPU that was not recorded"
    device = cpu if run.get("device") in (None, "cpu") else f"{run['device']} beside {cpu}"
    executor = f"Ray with {run['workers']} workers" if run["executor"] == "ray" else "one process"
    return f"{device}, {executor}"


def reached(one: Result) -> str:
    """A run's final scores: the metric that decides its protocol, or all metrics where there is no protocol."""
    steps, values = in_the_end(one.evaluation)
    after = f" after {steps} steps" if steps.isdigit() else ""
    known = one.protocol in recipes.protocol_names()
    judged = [read(one.protocol).columns[0].partition("@")[0]] if known else list(values)
    return ", ".join(f"{metric} {values[metric]}" for metric in judged) + after


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
