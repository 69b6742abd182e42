"""What earlier versions called the settings of a run."""

from __future__ import annotations

from typing import Any

from pipeline.config.since import settings_since


def as_today(saved: dict[str, Any]) -> dict[str, Any]:
    """The raw recipe.yaml of a run in today's keys.

    Before, ``rotations`` was a field of ``task.train`` and ``task.eval``, and queries came sorted by class.
    """
    task, source = saved.get("task"), saved.get("source")
    if not isinstance(task, dict) or not isinstance(source, dict):
        return saved
    found = {phase: one["rotations"] for phase, one in task.items() if isinstance(one, dict) and "rotations" in one}
    if not found:
        return saved
    plain = {phase: {key: value for key, value in one.items() if key != "rotations"} for phase, one in task.items()}
    return saved | {"task": plain, "source": source | _of_source(source.get("name"), found)}


def as_first_recorded(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a run as they were named at first, so that a setting which came later does not undo a recorded row."""
    named = dict(facts)
    for phase in ("train", "eval"):
        named[f"task.{phase}.rotations"] = named.pop(f"source.{phase}_rotations", "none")
    parts = (str(named.get(f"{part}.name")) for part in ("algorithm", "net", "source"))
    for key, value in settings_since(*parts).items():
        if key in named and named[key] == value:
            del named[key]
    if named.get("evaluation.validate_every") == "auto":
        named["evaluation.validate_every"] = 0  # a curve alone, which decides nothing
    return named


def _of_source(name: Any, rotations: dict[str, Any]) -> dict[str, Any]:
    """The moved settings; other sources had them in their tasks without an effect."""
    moved = {f"{phase}_rotations": value for phase, value in rotations.items()}
    if name == "images":
        return moved | {"query_order": "sorted"}
    return moved if name == "sequences" else {}
