"""Packaged recipes, and reading one: a name or a path, a ``base`` it starts from, and dotted overrides."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.failures import ConfigError

DEFAULT = "sinusoid_maml"


def names() -> list[str]:
    """The packaged recipes."""
    return sorted(
        file.name.removesuffix(".yaml") for file in resources.files(__name__).iterdir() if file.name.endswith(".yaml")
    )


def read(recipe: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw recipe: its file, laid over its ``base``, with ``key=value`` overrides on top.

    Raises:
        ConfigError: no such recipe, no mapping, a key given twice, an override without ``=``.
    """
    merged = _with_base(recipe, ())
    _override(merged, overrides)
    return merged


def parse(text: str, where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """As ``read``, from the text of a recipe that was saved with a run: it is whole, and has no base."""
    saved = _parse(text, f"recipe {where}")
    if not isinstance(saved, dict):
        raise ConfigError(f"recipe {where}: expected keys and values, found {saved!r}")
    _override(saved, overrides)
    return saved


def dump(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML text that ``read`` reads back as it was."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _with_base(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if recipe in seen:
        raise ConfigError(f"recipe {recipe}: its base leads back to itself ({' -> '.join((*seen, recipe))})")
    own = _parse(_text(recipe), f"recipe {recipe}")
    if not isinstance(own, dict):
        raise ConfigError(f"recipe {recipe}: expected keys and values, found {own!r}")
    base = own.pop("base", None)
    own.setdefault("name", Path(recipe).stem)
    return own if base is None else _merge(_with_base(str(base), (*seen, recipe)), own)


def _text(recipe: str) -> str:
    if recipe in names():
        return (resources.files(__name__) / f"{recipe}.yaml").read_text(encoding="utf-8")
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        close = difflib.get_close_matches(recipe, names(), 1)
        hint = f"did you mean {close[0]}?" if close else f"packaged are {', '.join(names())}"
        raise ConfigError(f"recipe {recipe!r}: no packaged recipe of that name, and no path of a .yaml file; {hint}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {recipe}: cannot be read ({error})") from error


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        # A part that is replaced by another of its kind brings its own fields.
        same = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name")
        )
        merged[key] = _merge(old, value) if same and isinstance(old, dict) else value
    return merged


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r}: expected key=value, for example algorithm.inner_lr=0.02")
        _set(tree, key, _parse(text, f"{key}="))


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    for depth, key in enumerate(above, 1):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}: {'.'.join(above[:depth])} is a value, it has no keys")
    tree[last] = value


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: 1e-3 is a number, yes and no are words, a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader above would not take for text, and what other YAML readers would not."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: TID251  (a subclass of SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error
