"""The measurements of ``make bench`` as Markdown, for docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.failures import ConfigError
from tests.bench.peak import best_fp32

NAMES = {
    "hand": "a loop by hand",
    "worker": "our worker",
    "ray_1": "Ray, 1 worker",
    "ray_2": "Ray, 2 workers",
    "learn2learn": "learn2learn",
    "torchopt": "TorchOpt",
    "higher": "higher",
}
AS_EXACT = 1.05
"""How much further from float64 than the loop's a gradient may be: few steps do not tell them apart better."""
STAGES = ("sampling", "inner_loop", "transport", "reduction", "checkpoint", "waiting")


def read(path: Path) -> dict[str, Any]:
    """A file that ``--json`` wrote. Raises ``ConfigError`` where it is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--print: {path} cannot be read ({error}); name a file that --json has written") from None
    return found


def page(found: Mapping[str, Any]) -> str:
    """All tables of a file that ``--json`` wrote."""
    scenarios = found["scenarios"]
    parts = [_machine(found), _speeds(found), _bars(scenarios), _stages(scenarios), _errors(scenarios)]
    return "\n\n".join([*parts, *_missing(scenarios)]) + "\n"


def problems(found: Mapping[str, Any]) -> list[str]:
    """A line for each bar that is missed; the docs say why."""
    lines = []
    for name, one in found["scenarios"].items():
        two = one["ways"].get("ray_2", {}).get("ratio")
        if one["due"] and two and two["value"] < one["due"]:
            lines.append(f"{name}: {two['value']:.2f} times as fast as by hand, at least {one['due']:g} is due")
        if one["errors"]["worker"]["total"] > AS_EXACT * one["errors"]["hand"]["total"]:
            off = {way: f"{one['errors'][way]['total']:.2e}" for way in ("worker", "hand")}
            lines.append(f"{name}: the gradient is {off['worker']} from float64, by hand {off['hand']}")
    return lines


def _machine(found: Mapping[str, Any]) -> str:
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in found["peaks"].items())
    two = found.get("two_processes")
    beside = f" Two processes that share nothing compute {two:.2f} times as much as one." if two else ""
    return (
        f"{found['machine']}, {found['cores']} cores, torch {found['torch']}, device {found['device']}, commit "
        f"{found['commit'][:10]}, {found['date']}; {found['seconds'] / 60:.0f} minutes in all. Peak of one thread or "
        f"GPU in GFLOP/s: {peaks}.{beside}"
    )


def _speeds(found: Mapping[str, Any]) -> str:
    head = "| | tasks/s | of the hand loop (95%) | CPU ms/task | share of peak | peak memory, MB (since start) |"
    lines, peak = [head, "|---|---:|---:|---:|---:|---:|"], best_fp32(found["peaks"])
    for one in found["scenarios"].values():
        lines.append(f"| **{one['title']}** | | | | | |")
        for way, speed in one["ways"].items():
            cores = int(way[4:]) if way.startswith("ray_") else one["trial"]["setting"][0] if way != "worker" else 1
            share = speed["gflop_per_s"] / peak / (cores if found["device"] == "cpu" else 1)
            setting = f" ({_setting(one)})" if way == "hand" else ""
            cells = [f"{NAMES[way]}{setting}", _number(speed["tasks_per_s"]), _interval(speed["ratio"])]
            lines.append(_row([*cells, f"{speed['cpu_ms_per_task']:.2f}", f"{share:.1%}", _memory(speed)]))
    return "\n".join(lines)


def _bars(scenarios: Mapping[str, Any]) -> str:
    lines = ["| | Ray, 2 workers, of the hand loop (95%) | due | 2 workers of 1 (95%) |", "|---|---:|---:|---:|"]
    for one in scenarios.values():
        due = f"≥ {one['due']:g}" if one["due"] else "–"
        two = one["ways"].get("ray_2", {}).get("ratio")
        lines.append(_row([one["title"], _interval(two), due, _interval(one["two_workers"])]))
    return "\n".join(lines)


def _stages(scenarios: Mapping[str, Any]) -> str:
    """Shares of a step's time on Ray with two workers, or with one."""
    lines = ["| step on Ray | ms | " + " | ".join(STAGES) + " |", "|---|---:|" + "---:|" * len(STAGES)]
    for one in scenarios.values():
        for way in ("ray_1", "ray_2"):
            stages = one["ways"].get(way, {}).get("stages")
            if stages:
                shares = [f"{stages.get(name, 0.0):.1%}" for name in STAGES]
                lines.append(_row([f"{one['title']}, {NAMES[way][5:]}", f"{1e3 * stages['step_s']:.1f}", *shares]))
    return "\n".join(lines)


def _errors(scenarios: Mapping[str, Any]) -> str:
    head = "| gradient's distance from float64 | by hand | not channels last | ours | worst leaf by hand | ours |"
    lines = [head, "|---|---:|---:|---:|---:|---:|"]
    for one in scenarios.values():
        hand, ours = one["errors"]["hand"], one["errors"]["worker"]
        worst = [f"{max(each['leaves'].values()):.1e}" for each in (hand, ours)]
        totals = [f"{one['errors'][way]['total']:.2e}" for way in ("hand", "contiguous", "worker")]
        lines.append(_row([one["title"], *totals, *worst]))
    return "\n".join(lines)


def _missing(scenarios: Mapping[str, Any]) -> list[str]:
    return [
        f"Not measured in {one['title']}: {NAMES[way]} ({reason})."
        for one in scenarios.values()
        for way, reason in one["missing"].items()
    ]


def _setting(one: Mapping[str, Any]) -> str:
    return max(one["trial"]["tried"], key=one["trial"]["tried"].__getitem__)


def _memory(speed: Mapping[str, Any]) -> str:
    """Of the process that computes."""
    peak, start = speed["memory_mb"], speed["memory_at_start_mb"]
    name = next((title for title in peak if "TaskWorker" in title), "this")
    return f"{peak[name]:,.0f} (+{peak[name] - start.get(name, 0.0):,.0f})"


def _interval(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['value']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
