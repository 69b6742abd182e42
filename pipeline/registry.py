"""Own algorithms, networks, sources and losses beside the packaged ones."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import MutableMapping
from typing import Any

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES, TaskLoss
from pipeline.core.types import About, Needs
from pipeline.nets import NETS
from pipeline.nets.net import Net
from pipeline.tasks import SOURCES


def register(name: str, thing: Any) -> None:
    """See ``pipeline.register``."""
    if not (isinstance(name, str) and re.fullmatch(r"[\w-]+", name)):
        raise ConfigError(f"register: {name!r} is no name; use letters, digits, _ and -")
    kind, registry = _registry_of(name, thing)
    if registry.get(name, thing) is not thing:
        raise ConfigError(f"register: there is {kind} {name!r} already; choose another name")
    registry[name] = thing


def _registry_of(name: str, thing: Any) -> tuple[str, MutableMapping[str, Any]]:
    if isinstance(thing, TaskLoss):
        _check_metric(name, thing)
        return "a loss", LOSSES
    if isinstance(thing, type) and issubclass(thing, Algorithm):
        _check_config(name, thing)
        for field, expected in (("needs", Needs), ("about", About)):
            if not isinstance(getattr(thing, field, None), expected):
                raise ConfigError(
                    f"register {name!r}: {thing.__name__} has no {field}, expected {expected.__name__}(…)"
                )
        return "an algorithm", ALGORITHMS
    if isinstance(thing, type) and issubclass(thing, Net):
        _check_config(name, thing)
        return "a network", NETS
    if isinstance(thing, type) and callable(getattr(thing, "sample", None)) and callable(getattr(thing, "spec", None)):
        _check_config(name, thing)
        return "a source", SOURCES
    shown = " ".join(repr(thing).split())
    raise ConfigError(
        f"register {name!r}: {shown} is none of an Algorithm class, a Net class, a source class (with spec and "
        "sample) and a TaskLoss"
    )


def _check_metric(name: str, thing: TaskLoss) -> None:
    for other, known in LOSSES.items():
        if known.metric == thing.metric and known[2:] != thing[2:]:
            raise ConfigError(
                f"register {name!r}: the loss {other} has the metric {thing.metric} with another direction or unit; "
                "name this metric otherwise"
            )


def _check_config(name: str, thing: type[Any]) -> None:
    config = getattr(thing, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ConfigError(f"register {name!r}: {thing.__name__}.Config is missing, expected a frozen dataclass")
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"register {name!r}: {config.__name__} is not frozen; write @dataclass(frozen=True)")
    try:
        typing.get_type_hints(config, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"register {name!r}: a type in {config.__name__} is not known ({error}); import it at the top of its module"
        ) from None
