"""Whose answers an evaluation adds up."""

from __future__ import annotations

from typing import Any

from pipeline.config import Recipe
from pipeline.core.losses import LOSSES
from pipeline.core.source import NamesClasses, TaskSource
from pipeline.core.types import Batch, Sets
from pipeline.engine.answers import Tally


def tally_of(recipe: Recipe, source: TaskSource[Any]) -> Tally | None:
    """What adds up the answers of the final table's tasks; none where they are no classification of examples."""
    spec = source.spec()
    if not (LOSSES[spec.loss].logits and spec.data in (Batch, Sets)):
        return None
    names = source.class_names(recipe.evaluation.split) if isinstance(source, NamesClasses) else ()
    return Tally(names, recipe.evaluation.tasks, recipe.chunk_size)
