"""What an evaluation's answers say, as text: calibration, the hardest and easiest classes, what was confused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.runs.report import final_table, plain, result_table

SHOWN = 5
"""Classes and pairs of classes in each table."""


def evaluation_text(result: Mapping[str, Any]) -> str:
    """A result of ``evaluate_run`` or ``evaluate_pair``: the table of scores, the answers, and the difference."""
    parts = [final_table(result["evaluation"]), answers_text(result)]
    if "difference" in result:
        told, other = result["difference"], result["other"]
        parts += [f"{told['against']}: {result_table(other['evaluation'])}", difference_line(told)]
    return "\n\n".join(part for part in parts if part)


def answers_text(result: Mapping[str, Any]) -> str:
    """The part of a result that ``evaluate_run`` adds for a classification; empty for other tasks.

    >>> answers_text({"evaluation": {}})
    ''
    """
    if "calibration" not in result:
        return ""
    parts = [calibration_line(result["calibration"])]
    classes = result.get("classes", [])
    if len(classes) > 2 * SHOWN:
        easiest = sorted(classes, key=lambda one: (-one["low"], -one["accuracy"], one["name"]))
        parts += [
            _classes(f"the {SHOWN} hardest of {len(classes)} classes", classes[:SHOWN]),
            _classes(f"the {SHOWN} easiest", easiest[:SHOWN]),
        ]
    elif classes:
        parts.append(_classes("class", classes))
    if classes and result["confusions"]["most"]:
        parts.append(_confusions(result["confusions"]))
    return "\n\n".join(parts)


def calibration_line(told: Mapping[str, Any]) -> str:
    """One line of calibration."""
    nll, brier = (_with_interval(told[name]) for name in ("nll", "brier"))
    return (
        f"calibration of {told['answers']:,} answers: ECE {told['ece']:.2%} in {len(told['bins'])} bins of equal width,"
        f" NLL {nll} nats, Brier score {brier}"
    )


def difference_line(told: Mapping[str, Any]) -> str:
    """One sentence on a paired difference, as ``evaluate_pair`` tells it."""
    share = told["unit"] == "share"
    mean, half = (f"{100 * abs(value):.2f}" if share else f"{abs(value):.3f}" for value in (told["mean"], told["ci95"]))
    unit = " percentage points" if share else f" {told['unit']}" if told["unit"] else ""
    where = f"of {told['metric']} on the same {told['tasks']:,} tasks (paired, 95% interval)"
    if told["better"]:
        other = told["against"] if told["better"] == told["run"] else told["run"]
        return f"{told['better']} is better than {other} by {mean} ± {half}{unit} {where}"
    sign = "+" if told["mean"] >= 0 else "−"
    return f"no difference shown: {told['run']} less {told['against']} is {sign}{mean} ± {half}{unit} {where}"


def _with_interval(told: Mapping[str, float]) -> str:
    return f"{told['mean']:.3f}" + ("" if math.isnan(told["ci95"]) else f" ± {told['ci95']:.3f}")


def _classes(title: str, classes: Sequence[Mapping[str, Any]]) -> str:
    table = Table(title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("accuracy", "95% interval", "tasks", "queries"):
        table.add_column(column, justify="right")
    for one in classes:
        between = f"{one['low']:.1%} to {one['high']:.1%}"
        table.add_row(one["name"], f"{one['accuracy']:.1%}", between, f"{one['tasks']:,}", f"{one['queries']:,}")
    return plain(table)


def _confusions(told: Mapping[str, Any]) -> str:
    shown = told["most"][:SHOWN]
    title = f"the {len(shown)} most frequent of {told['pairs']:,} confusions"
    table = Table(title, "taken for", box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("times", justify="right")
    for one in shown:
        table.add_row(one["name"], one["taken_for"], f"{one['times']:,}")
    return plain(table)
