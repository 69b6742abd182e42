"""Whose answers an evaluation adds up."""

from __future__ import annotations

from pipeline.build import Components
from pipeline.config import Recipe
from pipeline.core.losses import LOSSES
from pipeline.core.source import NamesClasses
from pipeline.core.types import Batch, Sets
from pipeline.engine.answers import Tally


def tally_of(recipe: Recipe, components: Components) -> Tally | None:
    """What adds up the answers of the final table's tasks; none where they are no classification of examples."""
    source = components.source
    spec = source.spec()
    if not (LOSSES[spec.loss].logits and spec.data in (Batch, Sets)):
        return None
    names = source.class_names(recipe.evaluation.split) if isinstance(source, NamesClasses) else ()
    return Tally(names, recipe.evaluation.tasks, recipe.chunk_size)
