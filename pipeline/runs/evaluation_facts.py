"""What is recorded beside an evaluation's numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.build import Components, evaluation_plan
from pipeline.config import Recipe
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.source import Named
from pipeline.serving.task import TASK, spec_of
from pipeline.storage import storage_at
from pipeline.storage.texts import read_text


def trained_outputs(folder: str | Path) -> int | None:
    """How wide the output is of a network that was trained with one output for each class.

    Its theta has that width, whatever data it is evaluated on. None where the recipe decides the width, or where the
    run is older than the file that says it.
    """
    text = read_text(storage_at(folder), TASK)
    if text is None:
        return None
    try:
        spec = spec_of(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/{TASK}: is damaged ({error!r}); put back a copy, or remove it") from None
    return spec.outputs if spec.targets == "classes" else None


def evaluation_facts(recipe: Recipe, components: Components, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows with the conditions under which they were measured."""
    plan, source = evaluation_plan(recipe, components.source), components.source
    names = source.task_names(plan.split) if isinstance(source, Named) else ()
    return {
        "split": plan.split,
        "set": getattr(recipe.source, "split", ""),
        "tasks": plan.tasks,
        "hash": plan.hash,
        "data": plan.data,
        "normalisation": recipe.normalisation,
        **{key: getattr(plan.shape, key) for key in ("ways", "shots", "queries")},
        "settings": dict(plan.settings),
        **({"names": [names[number % len(names)] for number in range(plan.tasks)]} if names else {}),
        **_judged_by(components),
        "rows": list(rows),
    }


def _judged_by(components: Components) -> dict[str, Any]:
    """The metric, its direction and its unit: recorded, so that a table needs no plug-in that defined them."""
    loss = LOSSES[components.source.spec().loss]
    return {"metric": loss.metric, "higher_is_better": loss.higher_is_better, "unit": loss.unit}
