"""The table of a comparison: each method's scores, and its paired difference to the best baseline or named methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.core.failures import ConfigError
from pipeline.engine.statistics import paired
from pipeline.runs.recorded import Result, direction_of, unit_of


def table(results: Sequence[Result], columns: Sequence[str], against: Sequence[str] = ()) -> str:
    """Markdown, the best first; ``columns`` and ``against`` as in a protocol.

    There are no differences to a method until it is done.

    Raises:
        ConfigError: two results were judged on other tasks, or one lacks a column.
    """
    if not results:
        return "nothing is done yet"
    hashes = {one.evaluation["hash"]: one.method for one in results}
    if len(hashes) > 1:
        raise ConfigError(
            f"{' and '.join(hashes.values())} were evaluated on different tasks; remove one and compare it again"
        )
    ranked = _ranked(results, columns[0])
    done, baselines = {one.method: one for one in ranked}, [one for one in ranked if one.family == "baseline"]
    others = [done[name] for name in against if name in done] if against else baselines[:1]
    paired = [f"less {other.method}" for other in others]
    head = ["method", *columns, *paired, "normalisation", "steps", "tasks", "trained", "tasks/s"]
    rows = [
        [
            one.method,
            *(_cell(one, column) for column in columns),
            *("" if one is other else _paired(one, other, columns[0]) for other in others),
            one.evaluation["normalisation"],
            f"{one.summary['steps']:,}",
            f"{one.summary['tasks_seen']:,}",
            f"{one.summary['train_s']:,.0f} s",
            f"{one.summary['tasks_per_s']:,.1f}",
            f"{one.summary['parameters']:,}",
            one.published or "–",
        ]
        for one in ranked
    ]
    return markdown([*head, "parameters", "published"], rows)


def table_of_tasks(results: Sequence[Result], column: str) -> str:
    """Markdown: each task's score, a column for each method, the best first; empty for one task, or without names.

    Args:
        results: of the same tasks; one that knows their names is enough.
        column: by which the methods were judged, as in a protocol.
    """
    named = [one.evaluation["names"] for one in results if "names" in one.evaluation]
    if not named or len(named[0]) == 1:
        return ""
    ranked, unit = _ranked(results, column), unit_of(results[0].evaluation, column.partition("@")[0])
    rows = [
        [name, *(shown(score, math.nan, unit) for score in scores)]
        for name, *scores in zip(named[0], *(one.summary["scores"] for one in ranked), strict=True)
    ]
    return markdown(["task", *(one.method for one in ranked)], rows)


def _ranked(results: Sequence[Result], column: str) -> list[Result]:
    """The best first."""
    sign = -1 if direction(results[0].evaluation, column) else 1
    return sorted(results, key=lambda one: sign * float(np.mean(one.summary["scores"])))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as text: the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(result: Result, column: str) -> str:
    metric, _, steps = column.partition("@")
    rows = [row for row in result.evaluation["rows"] if row["theta"] == "last" and row["metric"] == metric]
    found: list[dict[str, Any]] = [row for row in rows if row["point"] == int(steps)] if steps else rows[-1:]
    return shown(found[0]["mean"], found[0]["ci95"], unit_of(result.evaluation, metric)) if found else ""


def _paired(result: Result, other: Result, column: str) -> str:
    """The mean over tasks of the difference between this method's score and the other's, with its 95% interval."""
    mean, half, _ = paired(result.summary["scores"], other.summary["scores"])
    return f"{'+' if mean >= 0 else '−'}{shown(abs(mean), half, unit_of(result.evaluation, column.partition('@')[0]))}"


def shown(mean: float, half: float, unit: str) -> str:
    """A mean with half its 95% interval, in percent where the unit is ``share``. One task alone has no interval."""
    scale, digits, behind = (100, 2, "") if unit == "share" else (1, 3, f" {unit}" if unit else "")
    spread = "" if math.isnan(half) else f" ± {scale * half:.{digits}f}"
    return f"{scale * mean:.{digits}f}{spread}{behind}"


def direction(evaluation: Mapping[str, Any], column: str) -> bool:
    """Whether a larger number is better in this column.

    Raises:
        ConfigError: nobody says so: the metric is neither that of a known loss nor the one by which the run was judged.
    """
    metric = column.partition("@")[0]
    found = direction_of(evaluation, metric)
    if found is None:
        raise ConfigError(
            f"columns: {column!r}: it is not known whether more is better; put a metric first whose loss is known"
        )
    return found
