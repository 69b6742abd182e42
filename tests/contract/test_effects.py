"""Every field of every algorithm changes what is computed, except where its marks say that it does not."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import torch

from pipeline.algorithms import ALGORITHMS
from pipeline.core.effects import NotWith, OnlyWith, idle
from pipeline.core.flat import cast
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Context, Points, Simulator
from pipeline.engine.outer.optimizer import Outer, build_optimizer, build_scheduler
from pipeline.families.search import ArchitectureSearch
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import Mode
from pipeline.tasks import SOURCES
from pipeline.tasks.images import ImagesConfig
from pipeline.testing.compare import tensors
from pipeline.testing.tasks import small_tasks
from tests.contract.cases import small

pytestmark = pytest.mark.usefixtures("torch_threads")

ENOUGH: dict[str, dict[str, Any]] = {
    "mann": {"slots": 3, "reads": 2},
    "memorygated": {"slots": 3},
    "ntm": {"slots": 3},
    "metamemory": {"slots": 2, "nearest": 2, "episode_slots": 3},
    "gradientmemory": {"slots": 2},
    "mbpa": {"neighbours": 3},
    "metalstm": {"inner_steps": 3, "detach_every": 2},
    "learnedoptimizer": {"inner_steps": 3, "detach_every": 2},
    "metanas": {"inner_steps": 3, "eval_inner_steps": 3},
    "reptile": {"inner_steps": 3, "eval_inner_steps": 3},
    "imaml": {"solver_steps": 3},
    "anp": {"heads": 1},
    "replay": {"memory": 3},
    "lamaml": {"memory": 3},
    "maml_rl": {"inner_episodes": 4},
    "promp": {"inner_episodes": 4, "lr": 0.03},
    "rl2": {"memory_steps": 9},
}
"""Sizes at which a memory forgets, a neighbourhood is not the whole support set and a trajectory has two segments."""

NORMALISED: dict[str, Mode] = {"protonet": "transductive"}
"""Normalisation under which queries see each other, for a method whose fields ask for that."""

WAYS = {"metamemory": 2, "online_head": 2}
"""Fewer classes than the slots of a task's memory, which always has one more slot than classes; a stream that a step of
two examples divides."""

TASKS = {"metamemory": 3, "gradientmemory": 3}
"""How many tasks a method learns, where two are too few for what is forgotten to be missed."""


class Field(NamedTuple):
    algorithm: str
    name: str
    marks: tuple[Any, ...]
    hint: Any

    @property
    def id(self) -> str:
        return f"{self.algorithm}.{self.name}"


def fields_of(algorithm: str) -> Iterator[Field]:
    config = ALGORITHMS[algorithm].Config
    hints, plain = typing.get_type_hints(config, include_extras=True), typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        marks = [mark for mark in get_args(hints[field.name]) if isinstance(mark, OnlyWith | NotWith)]
        yield Field(algorithm, field.name, tuple(marks), plain[field.name])


FIELDS = [field for name in ALGORITHMS for field in fields_of(name)]
MARKED = [field for field in FIELDS if field.marks]


def others(field: Field, value: Any) -> list[Any]:
    """Values of a field other than this one."""
    if field.hint is bool:
        return [not value]
    if get_origin(field.hint) is Literal:
        return [other for other in get_args(field.hint) if other != value]
    if field.hint == int | None:
        return [2 if value is None else value + 1]
    return [value + 1] if field.hint is int else [value / 2 if value else 0.5]


def configs(field: Field) -> Iterator[Any]:
    """Small configs with every value that the field's marks name."""
    config = small(ALGORITHMS[field.algorithm].Config, **ENOUGH.get(field.algorithm, {}))
    choices: dict[str, list[Any]] = {}
    for mark in field.marks:
        named = mark.fields if isinstance(mark, NotWith) else {mark.field: mark.values}
        for name, values in named.items():
            hint = next(one for one in fields_of(field.algorithm) if one.name == name)
            choices[name] = list(dict.fromkeys([*choices.get(name, []), *values, *others(hint, values[0])]))
            if hint.hint is int:
                choices[name].append(max(values) + 2)
    for values in itertools.product(*choices.values()):
        yield dataclasses.replace(config, **dict(zip(choices, values, strict=True)))


def idle_value(field: Field, config: Any, value: Any) -> bool:
    """Whether a value computes what the default does, as the marks have it."""
    default = getattr(ALGORITHMS[field.algorithm].Config(), field.name)
    return value == default or idle(field.name, value, default, field.marks, vars(config)) is not None


@functools.cache
def computed(algorithm: str, config: Any, images: str) -> str:
    """A hash of all that a method computes: theta, what it learns of tasks, and what it answers at evaluation."""
    method_type, digest = ALGORITHMS[algorithm], hashlib.sha256()
    needs = method_type.needs
    sinusoid, shapes = "values" in needs.targets, TaskShapes(TaskShape(1, 8, 5), TaskShape(1, 8, 5))
    if not sinusoid:
        ways = WAYS.get(algorithm, 3)
        shapes = TaskShapes(TaskShape(ways, 3, 3), TaskShape(ways, 3, 3))
    place = ImagesConfig(images, labels="slots" if sinusoid else needs.targets[0])
    curves = SOURCES["gp_curves" if Points in needs.data else "sinusoid"]
    source = curves(curves.Config(), shapes) if sinusoid else SOURCES["images"](place, shapes)
    if Simulator in needs.data:
        source = small_tasks("choices")
    spec = source.spec()
    mode = NORMALISED.get(algorithm, "none")
    searches = issubclass(method_type, ArchitectureSearch)
    name = "policy" if Simulator in needs.data else "function_cells" if searches else "mlp"
    kind, sizes = NETS[name], {"cell": None} if searches else {"hidden": (8,)}
    net = kind.for_tasks(kind.Config(**sizes), spec, head=needs.head, normalised=mode != "none")
    method = method_type(config, NormalisedNet(net, mode, spec.input_shape), LOSSES[spec.loss].function)  # type: ignore[call-arg]
    theta = method.init(Ticket(1, "init", "train", 0, 0).rng("noise"))
    for number in range(TASKS.get(algorithm, 2)):
        for phase in ("train", "evaluate"):
            ticket = Ticket(1, "train" if phase == "train" else "evaluate", "train", 1, number)
            task = source.sample(ticket)
            context = Context(1 + number, phase, task.ways, method.draw(ticket.rng("noise"), task, phase))
            theta, task, context = cast((theta, task, context), torch.float64)
            if phase == "train":
                gradient, score = method.learn(theta, task, context)
                theta = theta | (method.fold(theta, [score.records]) if method.state_groups else {})
                seen = (gradient, theta, score.loss)
            else:
                adapted = method.adapt(theta, task.support, context)
                asked = task.query.x if hasattr(task.query, "x") else torch.ones(2, *spec.input_shape).double()
                seen = (method.predict(adapted, asked), len(tuple(method.trace(theta, task.support, context))))
            for tensor in tensors(seen):
                digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.id)
def test_a_field_has_an_effect_where_its_marks_say_so_and_nowhere_else(field, small_images):
    told = {True: 0, False: 0}
    for config in configs(field):
        value = getattr(config, field.name)
        before = computed(field.algorithm, config, str(small_images))
        for other in others(field, value):
            same = bool(field.marks) and all(idle_value(field, config, one) for one in (value, other))
            changed = dataclasses.replace(config, **{field.name: other})
            told[same] += 1
            assert (computed(field.algorithm, changed, str(small_images)) == before) == same, changed
    assert told[False]
    assert bool(told[True]) == bool(field.marks)


def stepped(outer: Outer) -> list[float]:
    """Where a parameter of 1 is after four steps down a gradient of 1, 2, 3 and 4."""
    parameter = torch.ones(1, requires_grad=True)
    optimizer = build_optimizer(outer, parameter)
    scheduler = build_scheduler(outer, optimizer, 4)
    found = []
    for step in range(1, 5):
        parameter.grad = torch.full((1,), float(step))
        optimizer.step()
        scheduler.step()
        found.append(parameter.item())
    return found


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
@pytest.mark.parametrize(
    ("name", "value"), [("momentum", 0.9), ("beta1", 0.5), ("beta2", 0.5), ("step_every", 3), ("step_factor", 0.1)]
)
def test_a_field_of_an_outer_optimizer_has_an_effect_where_its_marks_say_so(optimizer, schedule, name, value):
    outer = Outer(optimizer=optimizer, schedule=schedule, lr=0.1, step_every=2)
    marks = get_args(typing.get_type_hints(Outer, include_extras=True)[name])
    same = idle(name, value, None, marks, vars(outer)) is not None
    assert (stepped(dataclasses.replace(outer, **{name: value})) == stepped(outer)) == same


@pytest.mark.parametrize(
    "config", [Outer, *(net.Config for net in NETS.values()), *(one.Config for one in ALGORITHMS.values())]
)
def test_a_mark_names_fields_of_its_config_and_values_that_they_may_have(config):
    plain = typing.get_type_hints(config)
    for name, hint in typing.get_type_hints(config, include_extras=True).items():
        for mark in get_args(hint):
            named = mark.fields if isinstance(mark, NotWith) else {}
            named = {mark.field: mark.values} if isinstance(mark, OnlyWith) else named
            for field, values in named.items():
                assert field != name
                if get_origin(plain[field]) is Literal:
                    assert set(values) < set(get_args(plain[field]))
                assert not isinstance(mark, OnlyWith) or set(mark.of) <= set(get_args(plain[name]))
