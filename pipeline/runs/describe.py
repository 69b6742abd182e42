"""What a run prints of its recipe before it starts: the differences from a packaged recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline import recipes
from pipeline.config import Recipe, load
from pipeline.config.sections import WITHOUT_ENVIRONMENT


def describe(recipe: Recipe, given: str) -> str:
    """The keys in which a recipe differs from the packaged one that it is based on; every key where there is none.

    Args:
        recipe: the recipe with its overrides.
        given: the name or path that it was loaded by.
    """
    origin = recipes.origin(given)
    packaged = {} if origin is None else by_key(_packaged(origin).public())
    found = by_key(recipe.public())
    changed = [key for key in found if key != "name" and found[key] != packaged.get(key)]
    title = f"recipe {recipe.name}" + ("" if origin in (None, recipe.name) else f", based on {origin}")
    if not changed:
        return f"{title}, as packaged"
    return "\n".join([f"{title}:", *(f"  {key}: {found[key]}{_instead(packaged, key)}" for key in changed)])


def _packaged(name: str) -> Recipe:
    """The packaged recipe as it is without MLflow's environment variables, so that what they change is shown."""
    own = recipes.read(name).get("tracking", {})
    return load(name, [f"tracking.{key}={value}" for key, value in WITHOUT_ENVIRONMENT.items() if key not in own])


def _instead(packaged: Mapping[str, str], key: str) -> str:
    return f" (packaged: {packaged[key]})" if key in packaged else ""


def by_key(part: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as JSON; a text as it is."""
    flat: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, dict):
            flat |= by_key(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
