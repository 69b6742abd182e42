"""What is recorded beside an evaluation's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.build import Components, evaluation_plan
from pipeline.config import Recipe
from pipeline.core.losses import LOSSES
from pipeline.core.source import Named


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
