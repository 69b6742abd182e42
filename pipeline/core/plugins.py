"""Modules of a user's own that a process imports before it reads a recipe: with ``--import``, never by a recipe."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from pipeline.core.failures import ConfigError

PLUGINS = "plugins.json"
"""The file of a run with the names of the modules that its processes imported."""

_imported: dict[str, None] = {}


def import_plugins(modules: Iterable[str]) -> None:
    """Import modules by their dotted names; one that is imported already is left as it is.

    Raises:
        ConfigError: there is no such module in this process, or it raised; names it and the fix.
    """
    for name in modules:
        if name in _imported:
            continue
        try:
            importlib.import_module(name)
        except ConfigError:
            raise
        except ModuleNotFoundError as error:
            raise ConfigError(_missing(name, error)) from error
        except Exception as error:
            cause = " ".join(str(error).split())
            raise ConfigError(f"--import {name}: raised {type(error).__name__}: {cause}") from error
        _imported[name] = None


def imported() -> tuple[str, ...]:
    """The plug-ins of this process, in the order of their import."""
    return tuple(_imported)


def places() -> list[str]:
    """The folders and files of the plug-ins that are not installed: what a cluster must be sent."""
    found: dict[str, None] = {}
    for name in _imported:
        module = sys.modules[name.partition(".")[0]]
        place = next(iter(getattr(module, "__path__", [])), None) or getattr(module, "__file__", None)
        if place is not None and "site-packages" not in Path(place).parts:
            found[str(place)] = None
    return list(found)


def attribute(path: str, key: str) -> Any:
    """What MODULE:NAME names inside an imported plug-in.

    Args:
        path: the text MODULE:NAME.
        key: the recipe's key that errors name.

    Raises:
        ConfigError: MODULE was not imported as a plug-in, or has no NAME.
    """
    module, separator, name = path.partition(":")
    if not (module and separator and name):
        raise ConfigError(f"{key}: {path!r}, expected MODULE:NAME, for example my_lab.nets:resnet")
    if module not in _imported:
        known = f"; imported are {', '.join(_imported)}" if _imported else ""
        raise ConfigError(f"{key}: {module} is no imported plug-in{known}; add --import {module}")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{key}: {module} has no {name}")
        found = getattr(found, part)
    return found


def instead_of(name: object, known: Collection[str]) -> str:
    """What an unknown name of a part may have meant: the closest known one, or all and how a plug-in adds another."""
    close = difflib.get_close_matches(str(name), known, 1)
    if close:
        return f"did you mean {close[0]}?"
    fix = (
        "; register it in a plug-in and add --import MODULE (in Python: plugins=[...])" if isinstance(name, str) else ""
    )
    return f"known are {', '.join(known)}{fix}"


def _missing(name: str, error: ModuleNotFoundError) -> str:
    if error.name and (name == error.name or name.startswith(f"{error.name}.")):
        return (
            f"--import {name}: this machine has no module {error.name}; start in the folder that holds it, or install "
            "it on every node"
        )
    return f"--import {name}: it imports {error.name}, which is not installed here"


def plugin_file(modules: Collection[str]) -> dict[str, str]:
    """The file ``PLUGINS`` and its text; nothing where no module was imported."""
    return {PLUGINS: json.dumps(list(modules))} if modules else {}
