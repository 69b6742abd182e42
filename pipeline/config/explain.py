"""What is wrong with a recipe, in words of our own: pydantic's sentences change with its releases."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline import recipes
from pipeline.config.recipe import REGISTRIES, Recipe
from pipeline.core.plugins import instead_of
from pipeline.engine.outer.optimizer import Outer


def explain(errors: Iterable[Any], data: Mapping[str, Any]) -> list[str]:
    """A sentence for each value that is wrong. Of a field with several types, pydantic gives an error for each."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for details in errors:
        places.setdefault(_place(details, data), []).append(details)
    return [_sentence(list(place), found, data) for place, found in places.items()]


def _place(details: Any, data: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that lead to a value. pydantic's path also has the choices of unions; people do not write them there."""
    path: list[str] = []
    at: Any = data
    for key in details["loc"]:
        if isinstance(at, Mapping) and at.get("name") == key and key not in at:
            continue
        whole = at == details["input"] and details["type"] != "missing"
        if whole or not isinstance(at, Mapping | list):
            break
        path.append(str(key))
        at = at.get(key, {}) if isinstance(at, Mapping) else at[key]
    return tuple(path)


def _sentence(path: list[str], found: Sequence[Any], data: Mapping[str, Any]) -> str:
    # A value of the right type that is out of bounds is told by its bounds.
    details, *others = [one for one in found if not one["type"].endswith(("_type", "literal_error"))][:1] or found
    dotted, at = ".".join(path), details["input"]
    if details["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], data)
        close = difflib.get_close_matches(path[-1], known, 1)
        return f"{dotted}: unknown key" + (
            f", did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
        )
    if details["type"] == "missing":
        return f"{dotted}: is missing"
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        given = at.get("name") if isinstance(at, Mapping) else at
        return f"{dotted}.name: unknown {path[-1]} {recipes.shown(given)}; {instead_of(given, REGISTRIES[path[-1]])}"
    wanted = ", ".join([expected(details), *(expected(one).removeprefix("expected ") for one in others)])
    return f"{dotted}: {' or '.join(wanted.rsplit(', ', 1)) if others else wanted}, found {recipes.shown(at)}"


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "extra_forbidden": "no key of that name",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "missing": "a value for this key",
    "model_type": "keys and values",
    "string_type": "text",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}
"""What a value should have been, for each type of error that pydantic names; its own sentences change with releases."""


def expected(details: Any) -> str:
    """What was expected where pydantic found an error, in words of ours."""
    phrase = _EXPECTED.get(details["type"])
    if phrase is None:  # a validator of ours has said it, or an error that no field of ours gives today
        message = details["msg"].removeprefix("Value error, ")
        return f"{message[0].lower()}{message[1:]}"
    limits = details.get("ctx", {})
    whole = {name: int(limit) for name, limit in limits.items() if isinstance(limit, float) and limit.is_integer()}
    return f"expected {phrase.format(**limits | whole)}"


def _known_keys(path: Sequence[str], data: Mapping[str, Any]) -> list[str]:
    if not path:
        return list(Recipe.model_fields)
    registry = REGISTRIES.get(path[0])
    if registry is not None:
        return ["name", *(field.name for field in dataclasses.fields(registry[data[path[0]]["name"]].Config))]
    if path[0] == "outer":
        return [field.name for field in dataclasses.fields(Outer)]
    section: Any = Recipe
    for key in path:
        section = section.model_fields[key].annotation
    return list(section.model_fields)
