"""Packaged recipes, and how a recipe is read: a name or a path, its ``base``, and dotted overrides."""

from __future__ import annotations

import copy
import difflib
import functools
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.failures import ConfigError
from pipeline.core.redact import redact

DEFAULT = "sinusoid_maml"
SUFFIXES = (".yaml", ".yml")
MAX_CHARACTERS, MAX_NODES, MAX_SHOWN = 1 << 20, 10_000, 200
"""Limits: the characters of a recipe, its keys and values with aliases expanded, the characters of a value in a
message."""


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
    override(merged, overrides)
    return merged


def parse(text: str, where: str) -> dict[str, Any]:
    """The raw recipe in the text of a saved one, which is complete and has no base."""
    saved = _parse(text, f"recipe {where}")
    if not isinstance(saved, dict):
        raise ConfigError(f"recipe {where}: expected keys and values, found {saved!r}")
    return saved


def override(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Lay ``key=value`` overrides on a raw recipe, in place.

    Raises:
        ConfigError: an override without ``=``, or below a key that has a value.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r}: expected key=value, for example algorithm.inner_lr=0.02")
        _set(tree, key, _parse(text, f"{key}="))


def origin(recipe: str) -> str | None:
    """The packaged recipe that this one is or is based on; None for a file without such a base."""
    while recipe not in names():
        own = _parse(_text(recipe), f"recipe {recipe}")
        if not isinstance(own, dict) or "base" not in own:
            return None
        recipe = _beside(recipe, own["base"])
    return recipe


def protocol_names() -> list[str]:
    """The packaged protocols of comparisons."""
    return sorted(file.name.removesuffix(".yaml") for file in _protocols().iterdir() if file.name.endswith(".yaml"))


def read_protocol(name: str) -> dict[str, Any]:
    """The raw protocol of a comparison, packaged or at a path.

    Raises:
        ConfigError: no such protocol, or no mapping.
    """
    file = _protocols() / f"{name}.yaml" if name in protocol_names() else Path(name)
    if isinstance(file, Path) and file.suffix not in SUFFIXES:
        raise ConfigError(f"protocol {name!r}: packaged are {', '.join(protocol_names())}; or give the path of a .yaml")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"protocol {name}: cannot be read ({error})") from error
    found = _parse(text, f"protocol {name}")
    if not isinstance(found, dict):
        raise ConfigError(f"protocol {name}: expected keys and values, found {shown(found)}")
    return found


def shown(value: object) -> str:
    """A value as an error shows it: on one line, without secrets, and cut if it is long."""
    text = redact(repr(value))  # redacted before it is cut: the end of a URI locates its password
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def dump(recipe: Mapping[str, Any]) -> str:
    """The recipe as YAML text that ``read`` reads back unchanged."""
    return yaml.dump(recipe, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _protocols() -> Traversable:
    return resources.files(__name__) / "protocols"


def _with_base(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if recipe in seen:
        raise ConfigError(f"recipe {recipe}: its base leads back to itself ({' -> '.join((*seen, recipe))})")
    own = _parse(_text(recipe), f"recipe {recipe}")
    if not isinstance(own, dict):
        raise ConfigError(f"recipe {recipe}: expected keys and values, found {shown(own)}")
    base = own.pop("base", None)
    own.setdefault("name", Path(recipe).stem)
    return own if base is None else _merge(_with_base(_beside(recipe, base), (*seen, recipe)), own)


def _beside(recipe: str, base: object) -> str:
    """The base of a recipe: a packaged name, or a path relative to the recipe's folder."""
    if not isinstance(base, str):
        raise ConfigError(f"recipe {recipe}: base: expected a packaged name or a path, found {shown(base)}")
    if base in names() or Path(base).suffix not in SUFFIXES:
        return base
    return os.path.normpath(Path(recipe).parent / base)


def _text(recipe: str) -> str:
    if recipe in names():
        return (resources.files(__name__) / f"{recipe}.yaml").read_text(encoding="utf-8")
    path = Path(recipe)
    if path.suffix not in SUFFIXES:
        close = difflib.get_close_matches(recipe, names(), 1)
        hint = f"did you mean {close[0]}?" if close else f"packaged are {', '.join(names())}"
        raise ConfigError(f"recipe {recipe!r}: no packaged recipe of that name, and no path of a .yaml file; {hint}")
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {recipe}: cannot be read ({error})") from error


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        # A part that is replaced by another choice brings its own fields.
        same = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name")
        )
        merged[key] = _merge(old, value) if same and isinstance(old, dict) else value
    return merged


def _set(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    for depth, key in enumerate(above, 1):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{dotted}: {'.'.join(above[:depth])} is a value, it has no keys")
    tree[last] = value


_WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_WORDS |= dict.fromkeys(("None", "NONE", "Null", "NULL"), "null")
_OTHER_NUMBERS = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|\d[\d_]*(?::[0-5]?\d)+|\d+(?:_\d+)+)"
)
"""Whole numbers that YAML 1.1, YAML 1.2 and Python read differently: 010 is 8 in the first and 10 in the second."""


class _Loader(yaml.SafeLoader):
    """YAML without its surprises: 1e-3 is a number, 010 is not, yes and no are text, and duplicate keys are refused."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == "tag:yaml.org,2002:str":
            text, place = node.value, f"line {node.start_mark.line + 1}"
            if text in _WORDS:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{text} in {place}: YAML's word is {_WORDS[text]}; for the text write '{text}'"
                )
            if _OTHER_NUMBERS.fullmatch(text):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"{text} in {place}: whole numbers are decimal, without a leading 0, a colon or an underscore, such"
                    f" as 10; for the text write '{text}'",
                )
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                continue  # YAML's own error for it is clear
            if key in lines:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {shown(key)} (lines {lines[key]} and {line})"
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "float", "int", "null")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


_NO_TEXT = re.compile("[\\0\ud800-\udfff]")


class _Dumper(yaml.SafeDumper):
    """Quotes each text that the loader above, or another YAML reader, would not read as text."""


_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(f"^(?:{'|'.join(_WORDS)})$"), list("TFNn"))
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(f"^(?:{_OTHER_NUMBERS.pattern})$"), list("-+0123456789")
)


def _parse(text: str, where: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: longer than {MAX_CHARACTERS:,} characters, which no recipe is")
    try:
        return copy.deepcopy(_value(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply for a recipe") from None
    except (ValueError, AttributeError) as error:  # a number or a date that is none, as YAML's own constructors say it
        raise ConfigError(f"{where}: no valid YAML: a value that cannot be read ({error})") from error


@functools.lru_cache(maxsize=64)
def _value(text: str) -> Any:
    """Read once: a run reads its recipe several times, and YAML takes milliseconds for it."""
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _written_out(node, {})
    return loader.construct_document(node)


def _written_out(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of nodes with aliases expanded: nine lines can stand for a billion."""
    if isinstance(node, yaml.ScalarNode):
        if _NO_TEXT.search(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a text with a NUL or half a character in it")
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = MAX_NODES  # counts for an alias inside itself
        children = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
        sizes[id(node)] = 1 + sum(_written_out(child, sizes) for child in children)
    if sizes[id(node)] > MAX_NODES:
        raise yaml.composer.ComposerError(
            None, None, f"more than {MAX_NODES:,} keys and values once its aliases are written out"
        )
    return sizes[id(node)]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys as dotted ones and values as text, for the tracker's parameters."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat
