"""Declares beside a setting under which other settings it has no effect.

``Annotated[float, OnlyWith("optimizer", "sgd")]`` has an effect under ``optimizer: sgd`` alone, and
``Annotated[float, NotWith(neighbours=(1,))]`` has none under ``neighbours: 1``. A recipe that gives such a setting
another value than its default is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Missing = tuple[tuple[str, ...], str]
"""The other fields that remove a value's effect, and their values that would restore it."""


class OnlyWith:
    """The field has an effect only where ``field`` has one of ``values``.

    ``of`` restricts this to some of the field's own values: the others have an effect always.
    """

    def __init__(self, field: str, *values: Any, of: tuple[Any, ...] = ()) -> None:
        self.field, self.values, self.of = field, values, of

    def missing(self, value: Any, beside: Mapping[str, Any]) -> Missing | None:
        if beside[self.field] in self.values or (self.of and value not in self.of):
            return None
        return (self.field,), f"{self.field}: {' or '.join(map(written, self.values))}"


class NotWith:
    """The field has no effect where each of ``fields`` has one of the values that it is given here."""

    def __init__(self, **fields: tuple[Any, ...]) -> None:
        self.fields = fields

    def missing(self, value: Any, beside: Mapping[str, Any]) -> Missing | None:
        if any(beside[field] not in values for field, values in self.fields.items()):
            return None
        needed = [f"{field} other than {' or '.join(map(written, values))}" for field, values in self.fields.items()]
        return tuple(self.fields), " or ".join(needed)


def idle(name: str, value: Any, default: Any, marks: Iterable[Any], beside: Mapping[str, Any]) -> str | None:
    """The error for a setting that differs from its default and has no effect; ``beside`` are the values of all
    fields."""
    missing = [mark.missing(value, beside) for mark in marks if isinstance(mark, OnlyWith | NotWith)]
    for fields, needed in filter(None, missing if value != default else ()):
        found = " and ".join(f"{field}: {written(beside[field])}" for field in fields)
        return (
            f"{name}: {written(value)} has no effect with {found}, it needs {needed}; change that, or leave {name} at"
            f" its default, {written(default)}"
        )
    return None


def written(value: Any) -> str:
    """A value as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(written, value))}]" if isinstance(value, tuple) else str(value)


def stands_in(saved: Any, dotted: str, data: Any) -> bool:
    """Whether ``saved`` has the same value at a dotted key as ``data``."""
    for key in dotted.split("."):
        saved, data = (at.get(key) if isinstance(at, Mapping) else None for at in (saved, data))
    return saved is not None and saved == data
