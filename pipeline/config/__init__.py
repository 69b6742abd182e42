"""Recipes: read, checked and typed. Unknown keys are errors, and all errors are reported at once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pipeline import recipes
from pipeline.config.explain import expected, explain
from pipeline.config.recipe import Recipe, recipe_type
from pipeline.config.sections import Section, Tracking, file_fields, plain
from pipeline.core.effects import idle, stands_in
from pipeline.core.failures import ConfigError

__all__ = ["Recipe", "Section", "Tracking", "expected", "file_fields", "load", "plain", "recipe_type", "validate"]


def load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe.

    Raises:
        ConfigError: names every wrong key with its value, what was expected and the nearest valid name.
    """
    return validate(recipes.read(recipe, overrides), recipe)


def validate(data: Mapping[str, Any], where: str, saved: Mapping[str, Any] | None = None) -> Recipe:
    """As ``load``, from keys and values.

    A run may have been begun with settings without an effect. As they stand in its ``saved`` recipe they are let
    through: nobody can change them any more.
    """
    if "seed" in data and data["seed"] is None:
        # Short enough to be typed again; from here on it is a seed like any other, saved with the run.
        data = {**data, "seed": secrets.randbelow(1 << 32)}
    try:
        # Strict JSON rules: lists for tuples, but no text for numbers and no true for 1.
        recipe = recipe_type().model_validate_json(json.dumps(data, default=str))
        problems = [problem for key, problem in _idle(recipe) if not stands_in(saved, key, data)]
    except ValidationError as error:
        problems = explain(error.errors(include_url=False), data)
    if not problems:
        return recipe
    if len(problems) == 1:
        raise ConfigError(f"recipe {where}: {problems[0]}") from None
    raise ConfigError(
        f"recipe {where} has {len(problems)} problems:" + "".join(f"\n  {one}" for one in problems)
    ) from None


def _idle(part: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a section that differ from their defaults and have no effect: dotted key, and what to change."""
    if isinstance(part, Section):
        for name, field in type(part).model_fields.items():
            yield from _idle(getattr(part, name), f"{above}{name}.")
            problem = idle(name, getattr(part, name), field.default, field.metadata, vars(part))
            if problem is not None:
                yield f"{above}{name}", f"{above}{problem}"
    elif isinstance(part, dict):
        for name, inner in part.items():
            yield from _idle(inner, f"{above}{name}.")
