"""What earlier versions called the settings of a run, and the values of settings that they did not have."""

from __future__ import annotations

from typing import Any

SETTINGS_SINCE: dict[str, Any] = {
    "source.query_order": "sorted",
    "source.density": False,
    "algorithm.previous": "example",
    "algorithm.write_to": "one",
    "algorithm.objective": "bound",
    "algorithm.train_samples": 4,
}
"""Settings that came after the first runs, with the values that those runs were made with."""
SETTINGS_SINCE_OF: dict[str, dict[str, Any]] = {
    "protonet": {"algorithm.temperature": 1.0, "algorithm.batch": "apart"},
    "maml": {"algorithm.inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "pretrain": {"algorithm.eval_inner_optimizer": "sgd", "algorithm.eval_inner_batch": None},
    "finetune": {"algorithm.inner_batch": None},
}
"""The same for settings whose name another algorithm had before."""
SETTINGS_SINCE_OF_NET: dict[str, dict[str, Any]] = {"seq2seq": {"net.dropout": 0.0, "net.eval_dropout": 0.0}}
"""The same for settings whose name another network had before."""


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


def as_first_recorded(facts: dict[str, Any], algorithm: str) -> dict[str, Any]:
    """Facts of a run as they were named at first, so that a setting which came later does not undo a recorded row."""
    named = dict(facts)
    for phase in ("train", "eval"):
        named[f"task.{phase}.rotations"] = named.pop(f"source.{phase}_rotations", "none")
    of_net = SETTINGS_SINCE_OF_NET.get(str(named.get("net.name")), {})
    for key, value in (SETTINGS_SINCE | SETTINGS_SINCE_OF.get(algorithm, {}) | of_net).items():
        if key in named and named[key] == value:
            del named[key]
    return named


def _of_source(name: Any, rotations: dict[str, Any]) -> dict[str, Any]:
    """The moved settings; other sources had them in their tasks without an effect."""
    moved = {f"{phase}_rotations": value for phase, value in rotations.items()}
    if name == "images":
        return moved | {"query_order": "sorted"}
    return moved if name == "sequences" else {}
