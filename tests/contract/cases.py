"""What the contract is held against: everything in the registries, small, in float64.

Whoever registers an algorithm, source or network is enrolled here. Its ``Config`` must have a default for every field
(a source's ``path`` aside); integers are cut so that tests stay fast, and every other value of a ``bool`` or
``Literal`` field is a case of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.flat import Layout
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Purpose, Ticket, init_rng
from pipeline.core.source import Spec, TaskShape, TaskShapes, TaskSource
from pipeline.core.types import Context, Kind, MetaParams, Phase, Task
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import MODES, Mode
from pipeline.tasks import SOURCES

WIDEST = 32
LIMITS = {"steps": 2, "batch": 4, "slots": 4, "every": 1, "size": 2}
"""Integer fields whose names end so are cut to this; all others to ``WIDEST``."""

SHAPES: dict[Kind, TaskShapes] = {
    "classification": TaskShapes(TaskShape(3, 2, 2), TaskShape(3, 1, 3)),
    "regression": TaskShapes(TaskShape(1, 6, 5), TaskShape(1, 5, 6)),
    "sequence": TaskShapes(TaskShape(3, 0, 2), TaskShape(3, 1, 2)),
    "optimisation": TaskShapes(TaskShape(1, 6, 6), TaskShape(1, 5, 5)),
}
SPECS: dict[Kind, Spec] = {
    "classification": Spec("classification", (1, 16, 16), 3),
    "regression": Spec("regression", (1,), 1),
    "sequence": Spec("sequence", (1, 16, 16), 3),
    "optimisation": Spec("optimisation", (10,), 1),
}
SEED = 3
FOLDED = 9
"""The task whose records are in the state groups of a case's theta."""


def small(config: type[Any], **changes: Any) -> Any:
    """The configuration by default, with its integers cut."""
    for field in dataclasses.fields(config):
        value = field.default
        limit = LIMITS.get(field.name.rsplit("_", 1)[-1], WIDEST)
        if type(value) is int:
            changes.setdefault(field.name, min(value, limit))
        elif isinstance(value, tuple) and all(type(part) is int for part in value):
            changes.setdefault(field.name, tuple(min(part, limit) for part in value))
    return config(**changes)


def variants(config: type[Any]) -> Iterator[dict[str, Any]]:
    """No change; then each other value of a ``bool`` or ``Literal`` field."""
    yield {}
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        values = (False, True) if hint is bool else get_args(hint) if get_origin(hint) is Literal else ()
        yield from ({field.name: value} for value in values if value != field.default)


class Described(NamedTuple):
    """A case in words."""

    algorithm: str
    kind: Kind
    net: str
    mode: Mode
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return "-".join([*self[:4], *(f"{name}={value}" for name, value in self.changes)])

    def build(self) -> Algorithm[Any, Any]:
        """Raises ``ConfigError`` where the parts do not go together."""
        spec, kind = SPECS[self.kind], ALGORITHMS[self.algorithm]
        outputs = spec.outputs if kind.head else None
        net = NETS[self.net](small(NETS[self.net].Config), spec.input_shape, outputs, normalised=self.mode != "none")
        config = small(kind.Config, **dict(self.changes))
        return kind(config, NormalisedNet(net, self.mode, spec.input_shape), LOSSES[self.kind])  # type: ignore[call-arg]


@functools.cache
def described() -> tuple[Described, ...]:
    """Every algorithm × kind × network × mode that can be built, and each variant of an algorithm for each kind."""
    found = []
    for name, algorithm in ALGORITHMS.items():
        plain, *others = (tuple(change.items()) for change in variants(algorithm.Config))
        for kind in sorted(algorithm.kinds):
            fitting = [one for net in NETS for mode in MODES if _fits(one := Described(name, kind, net, mode, plain))]
            found += fitting
            varied = [one for one in fitting if one.mode == fitting[0].mode][-1]
            found += [varied._replace(changes=change) for change in others]
    return tuple(found)


def _fits(one: Described) -> bool:
    try:
        one.build()
    except ConfigError:
        return False
    return True


class Case(NamedTuple):
    """An algorithm with tasks for it. ``exact``: whether ``learn`` claims to be the derivative of an objective."""

    algorithm: Algorithm[Any, Any]
    source: TaskSource[Any]
    mode: Mode
    exact: bool = True

    def theta(self) -> MetaParams:
        """A fresh theta in float64, with state groups as after a first step: an empty memory would show little."""
        theta = pytree.tree_map(
            lambda leaf: leaf.detach().to(torch.float64, copy=True), self.algorithm.init(init_rng(SEED))
        )
        if not self.algorithm.state_groups:
            return theta
        _, score = self.algorithm.learn(theta, *self.drawn(FOLDED))
        return theta | self.algorithm.fold(theta, [score.records] if score.records else [])

    def layout(self) -> Layout:
        return Layout.of(self.theta(), torch.float64)

    def ticket(self, number: int, purpose: Purpose = "train") -> Ticket:
        return Ticket(SEED, purpose, "train" if purpose == "train" else "test", 1, number)

    def drawn(self, number: int, phase: Phase = "train") -> tuple[Task[Any], Context]:
        """A fresh task in float64, and its context."""
        ticket = self.ticket(number, "train" if phase == "train" else "evaluate")
        task = self.source.sample(ticket)
        context = Context(1, phase, task.ways, self.algorithm.draw(ticket.rng("noise"), task, phase))
        return pytree.tree_map_only(Tensor, _double, (task, context))


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor


def case_of(one: Described, images: Path) -> Case:
    """The case in words, built, with tasks of its kind from the first registered source of that kind."""
    return Case(one.build(), source_of_kind(one.kind, images), one.mode, exact=not dict(one.changes).get("first_order"))


def source_of_kind(kind: Kind, images: Path) -> TaskSource[Any]:
    for name in SOURCES:
        source = make_source(name, images)
        if source.spec() == SPECS[kind]:
            return source
    raise LookupError(f"no registered source gives tasks of {SPECS[kind]}")


def make_source(name: str, images: Path) -> TaskSource[Any]:
    """A registered source with its defaults; ``path`` fields get the small image file."""
    kind = SOURCES[name]
    places = {"path": str(images)}
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
        if source.spec().kind == wanted:
            return source
    raise LookupError(f"the source {name} takes none of the shapes in SHAPES")
