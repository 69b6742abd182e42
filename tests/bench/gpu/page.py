"""What the GPU check found, as Markdown, and what is missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DUE = {"conv4/32": 30.0, "conv4/256": 150.0}
"""How many times as fast as the loop by hand a worker with programs is to be."""
AS_EXACT = 1.05


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of the parts that have results."""
    parts = [_machine(found.get("machine", {})), _exact(found.get("exact", {}))]
    peaks = found.get("machine", {}).get("peaks", {})
    parts += [_speed(found.get("speed", {}), peaks), _workers(found.get("workers", {}))]
    return "\n\n".join(part for part in parts if part)


def problems(found: Mapping[str, Mapping[str, Any]], *, quick: bool) -> list[str]:
    """A line for each thing that does not hold; of ``quick`` sizes speeds are not judged."""
    lines, exact = [], found.get("exact", {})
    for name, one in exact.items():
        if name.endswith("/same_bits"):
            lines += [] if one else [f"{name}: a program gives other bits"]
        elif one["worker"]["total"] > AS_EXACT * one["hand"]["total"]:
            lines.append(
                f"{name}: the gradient is {one['worker']['total']:.2e} from float64, by hand {one['hand']['total']:.2e}"
            )
    if len({one["theta"] for one in found.get("workers", {}).values()}) > 1:
        lines.append("workers: 1, 2 and 4 workers end with other thetas")
    for name, due in {} if quick else DUE.items():
        value = found.get("speed", {}).get(name, {}).get("graphs", {}).get("ratio", [0.0])[0]
        if value < due:
            lines.append(f"{name}: {value:.1f} times as fast as by hand, at least {due:g} is due")
    return lines


def _machine(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in found.get("peaks", {}).items())
    return (
        f"{found['machine']}, torch {found['torch']}, commit {found['commit'][:10]}, {found['date']}. GFLOP/s: {peaks}."
    )


def _exact(found: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {one['hand']['total']:.2e} | {one['worker']['total']:.2e} | {found.get(f'{name}/same_bits')} |"
        for name, one in found.items()
        if not name.endswith("/same_bits")
    ]
    head = ["| gradient's distance from float64 | by hand | our worker | program: same bits |", "|---|---:|---:|---|"]
    return "\n".join([*head, *rows]) if rows else ""


def _speed(found: Mapping[str, Any], peaks: Mapping[str, float]) -> str:
    names = [name for name in ("fp32 matmul", "tf32 matmul", "bf16 matmul") if name in peaks]
    shares = " | ".join(f"of {name}" for name in names)
    head = f"| tasks in a chunk | tasks/s | of the hand loop (95%) | computed/s | GPU MB | {shares} |"
    lines = [head, "|---|" + "---:|" * (4 + len(names))]
    for name, one in found.items():
        for way in ("hand", "vectorised", "graphs") if isinstance(one, dict) else ():
            speed = one[way]
            computed = speed.get("computed_per_s", speed["tasks_per_s"])
            value, low, high = speed["ratio"]
            cells = [f"{name}, {way}", f"{speed['tasks_per_s']:,.0f}", f"{value:.1f} ({low:.1f}–{high:.1f})"]
            cells += [f"{computed:,.0f}", "–" if speed["memory_mb"] is None else f"{speed['memory_mb']:,.0f}"]
            cells += [f"{computed * one['gflop_per_task'] / peaks[each]:.2%}" for each in names]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) if found else ""


def _workers(found: Mapping[str, Any]) -> str:
    rows = [
        f"| {count} | {one['gpus']:g} | {one['tasks_per_s']:,.0f} | `{one['theta'][:16]}` |"
        for count, one in found.items()
    ]
    return "\n".join(["| Ray workers | GPU of each | tasks/s | theta |", "|---|---:|---:|---|", *rows]) if rows else ""
