"""Tables of the fields of a recipe: type, default, bounds and the sentence in the docstring of the field's class.

The list ``Attributes:`` in the docstring of a class describes its fields, one ``name: sentence`` each.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic.fields import FieldInfo

from pipeline.comparison.pages.measured import line
from pipeline.config import Section
from pipeline.config.sections import ATTRIBUTES

_COLUMNS = ("field", "type", "default", "bounds", "meaning")
_WORDS = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", NoneType: "`null`"}


def sections(recipe: type[Section]) -> Iterator[str]:
    """Markdown: the recipe's own fields, then those of its parts; a part that is chosen has a table for each choice."""
    parts = {key: _sections_in(field.annotation) for key, field in recipe.model_fields.items()}
    yield "## Fields"
    yield (
        "A dotted key such as `outer.model.lr` names a field of a part. What has no default must be given. `outer` has "
        "a part for each group of theta; `outer.model` also serves groups that are not named."
    )
    yield _table(recipe, [key for key, found in parts.items() if not found])
    for key, found in parts.items():
        chosen = [one for one in found if "name" in one.model_fields]
        if chosen:
            yield f"### `{key}`"
            yield f"One of {', '.join(f'`{_name(one)}`' for one in chosen)}, by `{key}.name`."
        for one in found:
            many = ".GROUP" if get_origin(recipe.model_fields[key].annotation) is dict else ""
            yield from _part(f"#### `{_name(one)}`" if one in chosen else f"### `{key}{many}`", one)


def meanings(section: type[Any]) -> dict[str, str]:
    """Field -> its line in the docstring of its class."""
    listed = inspect.cleandoc(section.__doc__ or "").partition(ATTRIBUTES)[2].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _part(heading: str, section: type[Section]) -> Iterator[str]:
    yield heading
    told = inspect.cleandoc(section.__doc__ or "").partition(ATTRIBUTES)[0]
    yield from (" ".join(paragraph.split()) for paragraph in told.split("\n\n") if paragraph.strip())
    inner = {key: _sections_in(field.annotation) for key, field in section.model_fields.items()}
    own = [key for key, found in inner.items() if not found and key != "name"]
    if own:
        yield _table(section, own)
    shared: dict[str, list[str]] = {}
    for key, found in inner.items():
        for one in found:
            shared.setdefault(one.__name__, []).append(key)
    for keys in shared.values():
        yield f"Of {' and '.join(f'`{key}`' for key in keys)} each:"
        yield _table(inner[keys[0]][0])


def _table(section: type[Section], keys: list[str] | None = None) -> str:
    said = meanings(section)
    rows = [line(_COLUMNS), line(["---"] * len(_COLUMNS))]
    for key in section.model_fields if keys is None else keys:
        field = section.model_fields[key]
        hint: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        bounds = ", ".join(dict.fromkeys(_bounds(hint)))
        rows.append(line([f"`{key}`", _type(hint), _default(field), bounds, said.get(key, "–")]))
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    """What the field is without a value in the recipe, and without environment variables."""
    if field.is_required():
        return "–"
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return f"`{json.dumps(extra.get('default', field.get_default(call_default_factory=True)))}`"


def _name(section: type[Section]) -> str:
    """The one value of ``name`` that selects a choice."""
    (name,) = get_args(section.model_fields["name"].annotation)
    return str(name)


def _sections_in(hint: Any) -> list[type[Section]]:
    """The sections that a field holds: itself, the choices of a union, the values of a mapping."""
    if inspect.isclass(hint) and issubclass(hint, Section):
        return [hint]
    found = [one for argument in get_args(hint) for one in _sections_in(argument)]
    return list(dict.fromkeys(found))


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in arguments)
    if origin is tuple:
        many = arguments[1:] == (...,)
        return f"list of {_type(arguments[0])}s" if many else f"list of {len(arguments)} {_type(arguments[0])}s"
    if origin is dict:
        return f"keys with {_type(arguments[1])}"
    return _WORDS[hint]


def _bounds(hint: Any) -> Iterator[str]:
    for mark in getattr(hint, "__metadata__", ()):
        signs = ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt"))
        yield from (f"{sign} {_number(getattr(mark, name))}" for kind, sign, name in signs if isinstance(mark, kind))
        if isinstance(mark, Len) and mark.max_length is not None:
            yield _length(mark.min_length, mark.max_length, hint)
    for argument in get_args(hint):
        yield from _bounds(argument)


def _length(least: int, most: int, hint: Any) -> str:
    items = "characters" if get_args(hint)[0] is str else "of them"
    return f"{least} {items}" if least == most else f"{least} to {most} {items}"


def _number(value: float) -> str:
    size, sign = abs(value), "−" if value < 0 else ""
    twos, tens = int(size).bit_length() - 1, len(f"{size:.0f}") - 1
    if size >= 1 << 12 and size == 1 << twos:
        return f"{sign}2^{twos}"
    return f"{sign}10^{tens}" if size >= 10**6 and size == float(f"1e{tens}") else f"{sign}{size:g}"
