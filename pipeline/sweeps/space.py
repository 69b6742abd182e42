"""What a sweep varies: settings with lists of values or with ranges, as they are typed.

A list is ``KEY=VALUE,VALUE``, where a comma inside brackets, braces or quotes belongs to a value. A range is
``KEY=log:LOW:HIGH``, ``KEY=float:LOW:HIGH`` or ``KEY=int:LOW:HIGH``, with both ends in it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.core.failures import ConfigError

MAX_CHILDREN = 1000
"""A sweep of more children is a slip: a list too many, or a zero."""
NOT_SWEPT = ("name", "evaluation", "task.eval", "tracking", "workers", "checkpoint")
"""Settings that decide how a child is judged or where it runs, and not what it learns."""
_RANGE = re.compile(r"(log|float|int):(.*)", re.DOTALL)
_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "'\""

Values = dict[str, str]
"""A child's values by dotted key, as text that can be typed again."""


@dataclass(frozen=True)
class Choices:
    """A setting with a list of values."""

    key: str
    texts: tuple[str, ...]

    def at(self, share: float) -> str:
        """The value at ``share`` of the list, 0 <= share < 1."""
        return self.texts[int(share * len(self.texts))]

    @property
    def ends(self) -> tuple[str, ...]:
        """The values to check before anything starts: all of them."""
        return self.texts

    def __str__(self) -> str:
        return ",".join(self.texts)


@dataclass(frozen=True)
class Range:
    """A setting with a range of numbers. ``log`` draws each factor alike, ``float`` each distance."""

    key: str
    kind: str
    low: float
    high: float

    def at(self, share: float) -> str:
        """The number at ``share`` of the range, 0 <= share < 1."""
        if self.kind == "int":
            return str(int(self.low + math.floor(share * (self.high - self.low + 1))))
        if self.kind == "log":
            return self.text(math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low))))
        return self.text(self.low + share * (self.high - self.low))

    def text(self, number: float) -> str:
        """A number with six digits: what is printed is what is trained with."""
        return str(int(number)) if self.kind == "int" else f"{number:.6g}"

    @property
    def ends(self) -> tuple[str, ...]:
        """The values to check before anything starts."""
        return self.text(self.low), self.text(self.high)

    def __str__(self) -> str:
        return f"{self.kind}:{self.text(self.low)}:{self.text(self.high)}"


Axis = Choices | Range


class Space(NamedTuple):
    """The settings that are varied, and the overrides that all children share."""

    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Space:
    """The space that ``key=value`` arguments describe: what has one value is an override of all children.

    Raises:
        ConfigError: nothing is varied, a key is given twice or decides how children are judged, a range is none.

    >>> parse(["outer.model.lr=log:1e-4:1e-1", "net.hidden=[40,40],[80,80]", "steps=200"]).fixed
    ('steps=200',)
    """
    axes: list[Axis] = []
    fixed: list[str] = []
    seen: set[str] = set()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"{argument!r}: expected key=value, or key=value,value to try several")
        if key in seen:
            raise ConfigError(f"{key}: is given twice; write all its values after one {key}=")
        seen.add(key)
        axis = _axis(key, text)
        if axis is None:
            fixed.append(argument)
            continue
        if any(key == one or key.startswith(f"{one}.") for one in NOT_SWEPT):
            raise ConfigError(f"{argument}: {key} does not decide what a child learns; give it one value")
        axes.append(axis)
    if not axes:
        raise ConfigError(
            "nothing is varied: give a setting several values, for example outer.model.lr=1e-3,1e-2, or a range, for "
            "example outer.model.lr=log:1e-4:1e-1"
        )
    return Space(tuple(axes), tuple(fixed))


def grid(axes: Sequence[Axis]) -> list[Values]:
    """Every combination of the values. The last setting changes fastest.

    Raises:
        ConfigError: a range has no end of values, or there are too many combinations.
    """
    for axis in axes:
        if isinstance(axis, Range):
            raise ConfigError(
                f"{axis.key}={axis}: a grid takes lists of values; list some, or draw from the range with "
                "--search random --samples N"
            )
    lists = [axis.texts for axis in axes if isinstance(axis, Choices)]
    check_count(math.prod(map(len, lists)))
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, texts, strict=True)) for texts in itertools.product(*lists)]


def drawn(axes: Sequence[Axis], samples: int, seed: int) -> list[Values]:
    """Random combinations. The first ones do not depend on how many there are."""
    check_count(samples)
    shares = [np.random.default_rng([seed, number]).random(len(axes)) for number in range(samples)]
    return [{axis.key: axis.at(share) for axis, share in zip(axes, one, strict=True)} for one in shares]


def corners(axes: Sequence[Axis]) -> Iterator[Values]:
    """Combinations in which each value to check occurs, one setting at a time."""
    first = {axis.key: axis.ends[0] for axis in axes}
    yield first
    for axis in axes:
        for text in axis.ends[1:]:
            yield first | {axis.key: text}


def overrides_of(values: Values) -> list[str]:
    """The values as ``key=value``."""
    return [f"{key}={text}" for key, text in values.items()]


def check_count(children: int) -> None:
    if not 1 <= children <= MAX_CHILDREN:
        raise ConfigError(f"{children:,} children: expected 1 to {MAX_CHILDREN:,}; leave values out, or draw --samples")


def _axis(key: str, text: str) -> Axis | None:
    """The values of a setting; None where there is one."""
    parts = _split(text)
    if len(parts) == 1:
        found = _RANGE.fullmatch(text)
        return None if found is None else _range(key, *found.groups())
    for number, part in enumerate(parts):
        if not part:
            raise ConfigError(f"{key}={text}: a value is empty; write one between two commas, or remove a comma")
        if part in parts[:number]:
            raise ConfigError(f"{key}={text}: {part} is listed twice")
        if _RANGE.fullmatch(part):
            raise ConfigError(f"{key}={text}: a range stands alone; write {key}={part}")
    return Choices(key, tuple(parts))


def _range(key: str, kind: str, ends: str) -> Range:
    whole = kind == "int"
    limits = "0 < LOW < HIGH" if kind == "log" else "whole numbers LOW < HIGH" if whole else "LOW < HIGH"
    example = "1:5" if whole else "1e-4:1e-1"
    wrong = ConfigError(f"{key}={kind}:{ends}: expected {kind}:LOW:HIGH with {limits}, for example {kind}:{example}")
    try:
        low, high = (int(end) if whole else float(end) for end in ends.split(":"))
    except ValueError:
        raise wrong from None
    if not (-math.inf < low < high < math.inf) or (kind == "log" and low <= 0):
        raise wrong
    return Range(key, kind, low, high)


def _split(text: str) -> list[str]:
    """The text between commas that stand in no bracket, brace or quote."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES:
            quote = sign
        elif sign == "," and depth == 0:
            parts.append("")
            continue
        depth += 0 if quote else (sign in _OPENING) - (sign in _CLOSING)
        parts[-1] += sign
    return [part.strip() for part in parts]
