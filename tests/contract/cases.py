"""What the contract is held against: everything in the registries, small, in float64.

Whoever registers an algorithm, source or network is enrolled here. Its ``Config`` must have a default for every field
(a source's ``path`` aside); integers are cut so that tests stay fast, and every other value of a ``bool`` or
``Literal`` field is a case of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.source import Spec, TaskShape, TaskShapes, TaskSource
from pipeline.core.types import Pairs
from pipeline.families.search import ArchitectureSearch
from pipeline.nets import NETS
from pipeline.nets.normalisation import MODES, Mode
from pipeline.nets.search_space import SearchSpace
from pipeline.nets.seq2seq import Seq2Seq
from pipeline.tasks import SOURCES
from pipeline.tasks.table import Table
from pipeline.tasks.transduction import Transduction
from pipeline.testing.case import Case, assemble
from pipeline.testing.checks import checks_of
from pipeline.testing.tasks import SPECS, small_tasks, taken_by
from tests import small_pairs, small_table

WIDEST = 32
LIMITS = {"steps": 2, "batch": 4, "slots": 4, "every": 1, "size": 2}
"""Integer fields whose names end so are cut to this; all others to ``WIDEST``."""
FEW = {"image_cells": {"channels": 8}}
"""Sizes of a search space, which computes all of its ops."""
TUPLE_LIMITS = {"channels": 8}

PACKAGED = {name: net for name, net in NETS.items() if name != "module"}
"""Networks to build: ``module`` is nothing without a plug-in."""
SPACES = [name for name, net in PACKAGED.items() if issubclass(net, SearchSpace)]
"""Search spaces, which the algorithms that need one are tried with, their cells open."""
SMALL_NETS = [name for name in PACKAGED if name not in ("resnet12", *SPACES)]
"""Networks that every other algorithm is tried with; ``test_resnet12`` tries what is too slow for that."""
SLOWEST = "conv4"
"""Of these, the one that costs twice what another does."""
SLOW = (SLOWEST, "image_cells")

SHAPES: dict[str, TaskShapes] = {
    "classification": TaskShapes(TaskShape(3, 2, 2), TaskShape(3, 1, 3)),
    "classes": TaskShapes(TaskShape(3, 2, 2), TaskShape(3, 1, 3)),
    "labels": TaskShapes(TaskShape(3, 2, 2), TaskShape(3, 1, 3)),
    "regression": TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)),
    "density": TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)),
    "transduction": TaskShapes(TaskShape(1, 4, 3), TaskShape(1, 3, 4)),
    "sequence": TaskShapes(TaskShape(3, 0, 2), TaskShape(3, 1, 2)),
    "sets": TaskShapes(TaskShape(4, 2, 2), TaskShape(4, 1, 3)),
    "choices": TaskShapes(TaskShape(1, 2, 2), TaskShape(1, 4, 3)),
    "control": TaskShapes(TaskShape(1, 2, 2), TaskShape(1, 4, 3)),
    "optimisation": TaskShapes(TaskShape(1, 6, 6), TaskShape(1, 5, 5)),
}

EXTRAS = {
    "captions": ("sentencepiece", "text"),
    "cartpole": ("gymnasium", "control"),
    "cheetah": ("mujoco", "control"),
    "metaworld": ("metaworld", "metaworld"),
}
"""The package that a source needs, and the extra that installs it."""


def small(config: type[Any], **changes: Any) -> Any:
    """The configuration by default, with its integers cut."""
    for field in dataclasses.fields(config):
        value = field.default
        limit = LIMITS.get(field.name.rsplit("_", 1)[-1], WIDEST)
        if type(value) is int:
            changes.setdefault(field.name, min(value, limit))
        elif isinstance(value, tuple) and all(type(part) is int for part in value):
            limit = TUPLE_LIMITS.get(field.name, limit)
            changes.setdefault(field.name, tuple(min(part, limit) for part in value))
    return config(**changes)


def variants(config: type[Any]) -> Iterator[dict[str, Any]]:
    """No change; then each other value of a ``bool`` or ``Literal`` field, save numbers too coarse for exact checks."""
    yield {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        values = (False, True) if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
        yield from ({field.name: value} for value in values if value not in (field.default, "bfloat16"))


class Described(NamedTuple):
    """A case in words."""

    algorithm: str
    kind: str
    net: str
    mode: Mode
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return "-".join([*self[:4], *(f"{name}={value}" for name, value in self.changes)])

    @property
    def checks(self) -> tuple[Callable[[Case], None], ...]:
        """First order is no derivative, and of some methods it is a setting."""
        algorithm = ALGORITHMS[self.algorithm]
        config = small(algorithm.Config, **dict(self.changes))
        return checks_of(algorithm, exact=not getattr(config, "first_order", False))

    def build(self) -> Algorithm[Any, Any]:
        """Raises ``ConfigError`` where the parts do not go together."""
        algorithm, net = ALGORITHMS[self.algorithm], NETS[self.net]
        config = small(algorithm.Config, **dict(self.changes))
        sizes: dict[str, Any] = {"embedding": 8, "hidden": 8} if net is Seq2Seq else {}
        sizes |= {"cell": None, **FEW.get(self.net, {})} if self.net in SPACES else {}
        return assemble(algorithm, config, net, small(net.Config, **sizes), self.mode, SPECS[self.kind])


@functools.cache
def described() -> tuple[Described, ...]:
    """Every algorithm × kind × network × mode that can be built, and each variant of an algorithm for each kind."""
    found = []
    for name, algorithm in ALGORITHMS.items():
        plain, *others = (tuple(change.items()) for change in variants(algorithm.Config))
        for kind in taken_by(algorithm):
            nets = SPACES if issubclass(algorithm, ArchitectureSearch) else SMALL_NETS
            built = (Described(name, kind, net, mode, plain) for net in nets for mode in MODES)
            fitting = [one for one in built if _fits(one)]
            found += fitting
            # Without normalisation: before one, the gradient of a bias is rounding, of which Adam makes whole steps.
            ranked = sorted(fitting, key=lambda one: (one.mode != "none", one.net in SLOW))
            for change in others:
                found.append(next(filter(_fits, (one._replace(changes=change) for one in ranked))))
    return tuple(found)


@functools.cache
def every_day() -> frozenset[Described]:
    """Of the grid, what is enough for most changes: all ``meetings``.

    Next is the case with the most that has not been met; of equal ones, one without the slowest network, then one that
    is no variant, then that of which the least has been met.
    """
    meets = {one: meetings(one) for one in described()}
    chosen, missing = set(), set().union(*meets.values())
    met: Counter[tuple[str, Any]] = Counter()
    while missing:
        new = {one: len(parts & missing) for one, parts in meets.items()}
        most = max(new.values())
        best = max(
            (one for one in meets if new[one] == most),
            key=lambda one: (one.net != SLOWEST, not one.changes, -sum(met[part] for part in meets[one])),
        )
        missing -= meets[best]
        met.update(meets[best])
        chosen.add(best)
    return frozenset(chosen)


def meetings(one: Described) -> set[tuple[str, Any]]:
    """The algorithm with its kind and its variant, and with the ``running`` mode, which adds a state group; its family
    with the network and the mode, which have their part in the algorithms of a family alike."""
    family = ALGORITHMS[one.algorithm].about.family
    own = {(one.algorithm, one.kind), (one.algorithm, one.changes)}
    if one.mode == "running":
        own.add((one.algorithm, one.mode))
    return own | {(family, one.net), (family, one.mode)}


@functools.cache
def leading() -> frozenset[Described]:
    """Of these, one case for each algorithm and kind; and the ``running`` mode, which adds a state group."""
    first: dict[tuple[Any, ...], Described] = {}
    for one in described():
        if one in every_day():
            first.setdefault((one.algorithm, one.kind, one.mode == "running"), one)
    return frozenset(first.values())


@functools.cache
def first() -> frozenset[Described]:
    """Of those a quick one for each algorithm, for each kind, and for each kind in the ``running`` mode."""
    found: dict[tuple[Any, ...], Described] = {}
    for one in sorted(filter(leading().__contains__, described()), key=lambda one: one.net in SLOW):
        named = (one.kind, "running") if one.mode == "running" else (one.algorithm,)
        found.setdefault(named, one)
        found.setdefault((one.kind,), one)
    return frozenset(found.values())


def _fits(one: Described) -> bool:
    """Whether it can be built, and draws what a task needs."""
    try:
        Case(one.build(), small_tasks(one.kind), one.mode).drawn(0)
    except ConfigError:
        return False
    return True


def case_of(one: Described, images: Path) -> Case:
    """The case in words, built, with tasks of its kind from the first registered source of that kind."""
    return Case(one.build(), source_of_kind(one.kind, images), one.mode)


def kind_of(spec: Spec) -> str:
    """The name in ``SPECS`` of such tasks, whatever the shape of an input."""
    return next(name for name, known in SPECS.items() if _same_kind(known, spec))


def _same_kind(one: Spec, other: Spec) -> bool:
    """Whether they are equal, but for the shape and the bounds of an input, vocabularies, what answers and parts are
    judged by, and how many classes all tasks have."""
    if one.data is Pairs:
        return other.data is Pairs
    if one.actions is not None:
        return other.actions is not None and one.actions.discrete == other.actions.discrete
    parts = [
        spec._replace(
            input_shape=(),
            bounds=None,
            loss=LOSSES[spec.loss].metric,
            outputs=0 if spec.targets == "labels" else spec.outputs,
        )
        for spec in (one, other)
    ]
    return parts[0] == parts[1]


def source_of_kind(kind: str, images: Path) -> TaskSource[Any]:
    # By default sequences are long, labels are slots, and sets are judged by part.
    special = SPECS[kind].tokens is not None or SPECS[kind].actions is not None
    if special or kind in ("classes", "labels", "sets"):
        return small_tasks(kind)
    for name in SOURCES:
        source = make_source(name, images)
        if source.spec()._replace(bounds=None) == SPECS[kind]:
            return source
    raise LookupError(f"no registered source gives tasks of {SPECS[kind]}")


def make_source(name: str, images: Path) -> TaskSource[Any]:
    """A registered source with its defaults; ``path`` fields get the small file of its kind."""
    kind = SOURCES[name]
    others = {Transduction: pairs_beside, Table: table_beside}
    place = next((beside(images) for family, beside in others.items() if issubclass(kind, family)), images)
    places = {"path": str(place)}
    needed = {
        field.name: places[field.name]
        for field in dataclasses.fields(kind.Config)
        if field.default is dataclasses.MISSING
    }
    for wanted, shapes in SHAPES.items():
        try:
            source = kind(kind.Config(**needed), shapes)
        except ConfigError:
            continue
        if _same_kind(source.spec(), SPECS[wanted]):
            return source
    raise LookupError(f"the source {name} takes none of the shapes in SHAPES")


def pairs_beside(images: Path) -> Path:
    """The small file of pairs in the folder of the small images, written when it is first asked for."""
    path = images.with_name("pairs.arrow")
    return path if path.exists() else small_pairs.write(path)


def table_beside(images: Path) -> Path:
    """The small table in the folder of the small images, written when it is first asked for."""
    path = images.with_name("table.arrow")
    return path if path.exists() else small_table.write(path)
