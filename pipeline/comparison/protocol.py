"""The protocol of a comparison: methods, one budget and the same evaluation tasks."""

from __future__ import annotations

import json
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len
from pydantic import ValidationError

from pipeline import recipes
from pipeline.config import Section, expected
from pipeline.core.bounds import OuterSteps
from pipeline.core.failures import ConfigError


class Choice(Section):
    """A setting of the evaluation, and the values of which the best on tasks of the split ``val`` is taken."""

    setting: str
    values: Annotated[tuple[Annotated[int | float, Ge(0), Le(10**9)], ...], Len(2)]


class Method(Section):
    """A recipe and its changes. ``steps`` is for a method that gets other steps than the budget."""

    recipe: str
    change: tuple[str, ...] = ()
    choose: Choice | None = None
    steps: OuterSteps | None = None
    published: str = ""


class Protocol(Section):
    """A budget of training ``seconds`` or of ``tasks``, changes to every recipe, and the methods.

    ``columns`` are metrics after the last inner step, or as METRIC@STEPS after another; the first one decides. Each
    method is compared in pairs with those that ``against`` names, or with the best baseline.
    """

    about: str
    seconds: Annotated[float, Gt(0), Le(10**8)] | None = None
    tasks: Annotated[int, Ge(1), Le(10**12)] | None = None
    change: tuple[str, ...] = ()
    columns: Annotated[tuple[str, ...], Len(1)] = ("accuracy",)
    against: tuple[str, ...] = ()
    methods: Annotated[dict[str, Method], Len(1)]


def read(name: str) -> Protocol:
    """A packaged protocol, or one at a path.

    Raises:
        ConfigError: names the protocol, the key and what was expected.
    """
    try:
        protocol = Protocol.model_validate_json(json.dumps(recipes.read_protocol(name), default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"protocol {name}: {where}: {expected(first)}, found {recipes.shown(first['input'])}"
        ) from None
    if (protocol.seconds is None) == (protocol.tasks is None):
        raise ConfigError(f"protocol {name}: expected a budget of seconds or one of tasks, and not both")
    unknown = [method for method in protocol.against if method not in protocol.methods]
    if unknown:
        known = ", ".join(protocol.methods)
        raise ConfigError(f"protocol {name}: against: no method {unknown[0]!r}; it has {known}")
    return protocol
