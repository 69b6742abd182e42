"""Recipes as one frozen, typed value. Unknown keys are errors, and all errors are reported at once.

The fields of an algorithm, a source or a network are those of the frozen dataclass in its own file. The unions over
them are built from the registries here, so registering one enrols it in the recipes too.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import secrets
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline import recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.core.bounds import OuterSteps, share_of_gpus
from pipeline.core.effects import NotWith, idle, stands_in
from pipeline.core.failures import ConfigError
from pipeline.core.redact import redact_uri
from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import FilePath, MayChange
from pipeline.engine.durability.identity import Identity
from pipeline.engine.numerics import Numerics
from pipeline.engine.outer.optimizer import Outer
from pipeline.nets import NETS
from pipeline.nets.normalisation import Mode
from pipeline.tasks import SOURCES

TASK_SHAPE_ROLE = Literal["train", "eval"]


class Section(BaseModel):
    """A part of a recipe: no key it does not know, no change after it is made, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _section(config: type[Any], **extra: Any) -> type[Section]:
    """A frozen dataclass as a section with the same fields, limits and defaults."""
    hints = typing.get_type_hints(config, include_extras=True)
    fields: dict[str, Any] = dict(extra)
    for field in dataclasses.fields(config):
        fields[field.name] = (hints[field.name], ... if field.default is dataclasses.MISSING else field.default)
    return create_model(config.__qualname__, __base__=Section, __doc__=config.__doc__, **fields)


def _choice(registry: Mapping[str, type[Any]]) -> Any:
    """One section for each registered class, told apart by ``name``."""
    members = [_section(cls.Config, name=(Literal[name], ...)) for name, cls in registry.items()]
    return Annotated[reduce(or_, members), Field(discriminator="name")] if len(members) > 1 else members[0]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"expected a power of two, for example {1 << (value.bit_length() - 1)}")
    return value


def _steps_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    raise ValueError("expected a number of outer steps, 1 or more, or auto")


def _folder_name(value: str) -> str:
    if value in ("", ".", "..") or {"/", "\\"} & set(value) or not value.isprintable() or len(value.encode()) > 200:
        raise ValueError("expected the name of a folder: no slash, nothing unprintable, 1 to 200 bytes")
    return value


MAX_TASKS = 1 << 20
"""Of one step or one evaluation: more is a slip, and their tickets would fill the driver's memory."""


class Tasks(Section):
    """Shapes of training and of evaluation tasks."""

    train: _section(TaskShape)  # type: ignore[valid-type]
    eval: Annotated[_section(TaskShape), MayChange()]  # type: ignore[valid-type]


class Evaluation(Section):
    """The final table's tasks, and validation on the way.

    Attributes:
        split: Where the final table's tasks are from.
        tasks: How many there are.
        seed: What they are drawn by.
        validate_every: Outer steps between two validations; 0 is none.
        validation_tasks: Tasks of a validation.
    """

    split: Split = "test"
    tasks: Annotated[int, Ge(1), Le(MAX_TASKS)] = 600
    seed: Annotated[int, Ge(0), Lt(2**64)] = 20260
    validate_every: Annotated[int, Ge(0), Le(10**9)] = 0
    validation_tasks: Annotated[int, Ge(1), Le(MAX_TASKS), NotWith(validate_every=(0,))] = 200


class WorkerCount(Section):
    """Workers on Ray.

    Attributes:
        count: How many.
        gpus: The share of a GPU each gets.
        on_poison: What to do with a task that kills whoever computes it.
    """

    count: Annotated[int, Ge(1), Le(1 << 12)] = 2
    gpus: Annotated[float, Ge(0), Le(1 << 10), AfterValidator(share_of_gpus)] = 0.0
    on_poison: Literal["abort", "skip"] = "abort"


class Checkpoint(Section):
    """How often theta is made durable.

    Attributes:
        every: In outer steps; ``auto``: each step while theta is small (a million numbers on a disk), else each minute.
        keep: How many files stay beside the best.
    """

    every: Annotated[int | Literal["auto"], BeforeValidator(_steps_or_auto)] = "auto"
    keep: Annotated[int, Ge(1), Le(10**6)] = 2


class Tracking(Section):
    """Where MLflow is.

    The defaults are MLflow's own settings: the environment variables MLFLOW_TRACKING_URI, which
    ``mlflow.set_tracking_uri`` sets too, and MLFLOW_EXPERIMENT_NAME. They are read where the recipe is loaded, and the
    values travel with the recipe: the environment of another process does not count.

    A password is best given in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. One in the URI works, and is
    neither printed nor saved.

    Attributes:
        uri: Where MLflow is; a relative sqlite path is made absolute before anything starts.
        experiment: The experiment's name.
        log_every: Outer steps between two points of a curve.
        parent: The id of the MLflow run that this one is shown under, if any.
    """

    uri: str = Field(default_factory=lambda: os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    experiment: Annotated[str, Len(1, 500)] = Field(
        default_factory=lambda: os.environ.get("MLFLOW_EXPERIMENT_NAME") or "metafleet"
    )
    log_every: OuterSteps = 20
    parent: str = ""


class Recipe(Section):
    """Everything a run is made of.

    A run that is resumed with another value must be told it is another run, except where the value never decides theta:
    those are marked ``MayChange`` or ``FilePath``, here or in the file of their own config.

    Attributes:
        name: A folder under ``runs``, and what MLflow shows.
        seed: What theta's start and all training tasks are drawn by; null draws a seed.
        steps: Outer steps.
        tasks_per_step: Tasks of an outer step.
        chunk_size: Tasks that a worker computes in one call, a power of two.
        normalisation: What hidden layers are normalised by, if by anything.
    """

    name: Annotated[str, AfterValidator(_folder_name), MayChange()]
    seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    steps: OuterSteps
    tasks_per_step: Annotated[int, Gt(0), Le(MAX_TASKS)]
    chunk_size: Annotated[int, Gt(0), Le(MAX_TASKS), AfterValidator(_power_of_two)]
    algorithm: _choice(ALGORITHMS)  # type: ignore[valid-type]
    net: _choice(NETS)  # type: ignore[valid-type]
    source: _choice(SOURCES)  # type: ignore[valid-type]
    normalisation: Mode
    task: Tasks
    outer: dict[str, _section(Outer)]  # type: ignore[valid-type]
    evaluation: Annotated[Evaluation, MayChange()] = Evaluation()
    numerics: _section(Numerics) = _section(Numerics)()  # type: ignore[valid-type]
    workers: Annotated[WorkerCount, MayChange()] = WorkerCount()
    checkpoint: Annotated[Checkpoint, MayChange()] = Checkpoint()
    tracking: Annotated[Tracking, MayChange()] = Field(default_factory=Tracking)

    def shapes(self) -> TaskShapes:
        return TaskShapes(plain(self.task.train, TaskShape), plain(self.task.eval, TaskShape))

    def public(self) -> dict[str, Any]:
        """Keys and values as they are printed, saved with the run and logged: without the tracking URI's secrets."""
        whole = self.model_dump(mode="json")
        return whole | {"tracking": whole["tracking"] | {"uri": redact_uri(self.tracking.uri)}}

    def identity(self, data: str) -> Identity:
        """What a resume is compared by. ``data`` is the source's fingerprint."""
        values = {key: (value, free) for key, value, free in _values(self)}
        # Steps decide theta only where the learning rate follows them.
        follows = any(outer.schedule in ("linear", "cosine") for outer in self.outer.values())
        values["steps"] = (self.steps, not follows)
        del values["tracking.uri"]  # it may hold a password, and checkpoints are copied about
        return Identity(
            {"data": data} | {key: value for key, (value, free) in values.items() if not free},
            {key: value for key, (value, free) in values.items() if free},
        )


def _values(part: Any, key: str = "", free: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Everything in a section by dotted key, and whether it may change on a resume."""
    if isinstance(part, Section):
        for name, field in type(part).model_fields.items():
            marked = any(isinstance(mark, MayChange | FilePath) for mark in field.metadata)
            yield from _values(getattr(part, name), f"{key}.{name}" if key else name, free or marked)
    elif isinstance(part, dict):
        for name, inner in part.items():
            yield from _values(inner, f"{key}.{name}", free)
    else:
        yield key, list(part) if isinstance(part, tuple) else part, free


def file_fields(section: Section) -> list[str]:
    """The fields of a section that are paths of files."""
    fields = type(section).model_fields.items()
    return [name for name, field in fields if any(isinstance(mark, FilePath) for mark in field.metadata)]


def plain(section: Section, config: type[Any]) -> Any:
    """A section as the dataclass it was made from."""
    return config(**{field.name: getattr(section, field.name) for field in dataclasses.fields(config)})


def load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """A validated recipe.

    Raises:
        ConfigError: names every wrong key with its value, what was expected and the nearest valid name.
    """
    return validate(recipes.read(recipe, overrides), recipe)


def validate(data: Mapping[str, Any], where: str, saved: Mapping[str, Any] | None = None) -> Recipe:
    """As ``load``, from keys and values.

    A run may have been begun with settings without an effect. As they stand in its ``saved`` recipe they are let
    through: nobody can change them any more.
    """
    if "seed" in data and data["seed"] is None:
        # Short enough to be typed again; from here on it is a seed like any other, saved with the run.
        data = {**data, "seed": secrets.randbelow(1 << 32)}
    try:
        # Strict JSON rules: lists for tuples, but no text for numbers and no true for 1.
        recipe = Recipe.model_validate_json(json.dumps(data, default=str))
        problems = [problem for key, problem in _idle(recipe) if not stands_in(saved, key, data)]
    except ValidationError as error:
        problems = [_explain(details, data) for details in error.errors(include_url=False)]
    if not problems:
        return recipe
    if len(problems) == 1:
        raise ConfigError(f"recipe {where}: {problems[0]}") from None
    raise ConfigError(
        f"recipe {where} has {len(problems)} problems:" + "".join(f"\n  {one}" for one in problems)
    ) from None


def _idle(part: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """The settings of a section that differ from their defaults and have no effect: dotted key, and what to change."""
    if isinstance(part, Section):
        for name, field in type(part).model_fields.items():
            yield from _idle(getattr(part, name), f"{above}{name}.")
            problem = idle(name, getattr(part, name), field.default, field.metadata, vars(part))
            if problem is not None:
                yield f"{above}{name}", f"{above}{problem}"
    elif isinstance(part, dict):
        for name, inner in part.items():
            yield from _idle(inner, f"{above}{name}.")


def _explain(details: Any, data: Mapping[str, Any]) -> str:
    path, at = [], data
    for key in details["loc"]:
        # pydantic puts a union's tag into the path; people do not write it there.
        if isinstance(at, Mapping) and at.get("name") == key and key not in at:
            continue
        path.append(str(key))
        at = at.get(key, {}) if isinstance(at, Mapping) else {}
    dotted = ".".join(path)
    if details["type"] == "extra_forbidden":
        known = _known_keys(path[:-1], data)
        close = difflib.get_close_matches(path[-1], known, 1)
        return f"{dotted}: unknown key" + (
            f", did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
        )
    if details["type"] == "missing":
        return f"{dotted}: is missing"
    if details["type"] in ("union_tag_invalid", "union_tag_not_found"):
        known = _known_names(path[-1])
        given = at.get("name") if isinstance(at, Mapping) else at
        close = difflib.get_close_matches(str(given), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"{dotted}.name: unknown {path[-1]} {recipes.shown(given)}; {hint}"
    return f"{dotted}: {expected(details)}, found {recipes.shown(details['input'])}"


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "extra_forbidden": "no key of that name",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "missing": "a value for this key",
    "model_type": "keys and values",
    "string_type": "text",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}
"""What a value should have been, for each type of error that pydantic names; its own sentences change with releases."""


def expected(details: Any) -> str:
    """What was expected where pydantic found an error, in words of ours."""
    phrase = _EXPECTED.get(details["type"])
    if phrase is None:  # a validator of ours has said it, or an error that no field of ours gives today
        message = details["msg"].removeprefix("Value error, ")
        return f"{message[0].lower()}{message[1:]}"
    limits = details.get("ctx", {})
    whole = {name: int(limit) for name, limit in limits.items() if isinstance(limit, float) and limit.is_integer()}
    return f"expected {phrase.format(**limits | whole)}"


_REGISTRIES: dict[str, Mapping[str, type[Any]]] = {"algorithm": ALGORITHMS, "net": NETS, "source": SOURCES}


def _known_names(part: str) -> list[str]:
    return list(_REGISTRIES[part])


def _known_keys(path: Sequence[str], data: Mapping[str, Any]) -> list[str]:
    if not path:
        return list(Recipe.model_fields)
    registry = _REGISTRIES.get(path[0])
    if registry is not None:
        return ["name", *(field.name for field in dataclasses.fields(registry[data[path[0]]["name"]].Config))]
    if path[0] == "outer":
        return [field.name for field in dataclasses.fields(Outer)]
    section: Any = Recipe
    for key in path:
        section = section.model_fields[key].annotation
    return list(section.model_fields)
