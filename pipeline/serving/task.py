"""What serving must know of a run's tasks, as a file beside its recipe: it then needs no data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.actions import Actions
from pipeline.core.plugins import PLUGINS
from pipeline.core.source import HasTexts, Prepared, Spec, TaskSource, Tokens
from pipeline.core.types import Batch, Pairs, Points, Sets, Simulator, Stream

TASK = "task.json"
SCORES = "scores.json"
"""The file of a run's end with each evaluation task's score."""
SERVED = ("recipe.yaml", TASK, PLUGINS, SCORES)
"""The files of a run, beside its theta, of which a served model is made."""
DATA: dict[str, type] = {one.__name__: one for one in (Batch, Stream, Sets, Points, Pairs, Simulator)}


def task_file(source: TaskSource[Any]) -> dict[str, str]:
    """The file ``TASK`` and its text; nothing for data of a type of one's own, which serving must have."""
    spec = source.spec()
    if spec.data not in DATA.values():
        return {}
    texts = source.texts.saved() if isinstance(source, HasTexts) else None
    told = {"spec": spec._asdict() | {"data": spec.data.__name__}, "texts": texts}
    if isinstance(source, Prepared) and source.preparation is not None:
        told["preparation"] = dict(source.preparation)
    return {TASK: json.dumps(told, ensure_ascii=False)}


def spec_of(task: Mapping[str, Any]) -> Spec:
    """The spec in a file ``TASK`` that was read."""
    told = task["spec"]
    tokens = None if told["tokens"] is None else Tokens(*told["tokens"])
    actions = Actions(*told["actions"]) if told.get("actions") else None
    bounds = tuple(told["bounds"]) if told.get("bounds") else None
    read = {
        "bounds": bounds,
        "data": DATA[told["data"]],
        "input_shape": tuple(told["input_shape"]),
        "tokens": tokens,
        "actions": actions,
    }
    return Spec(**told | read)
