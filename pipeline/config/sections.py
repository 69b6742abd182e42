"""The parts of a recipe as frozen, typed sections."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from pipeline.core.bounds import OuterSteps, share_of_gpus
from pipeline.core.effects import NotWith
from pipeline.core.seeding import Split
from pipeline.core.source import TaskShape
from pipeline.core.types import FilePath, MayChange

ATTRIBUTES = "Attributes:\n"
"""What begins the list of fields in a config's docstring, one ``name: sentence`` each."""
TASK_SHAPE_ROLE = Literal["train", "eval"]


class Section(BaseModel):
    """A part of a recipe: no key it does not know, no change after it is made, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def section_of(config: type[Any], **extra: Any) -> type[Section]:
    """A frozen dataclass as a section with the same fields, limits and defaults."""
    hints = typing.get_type_hints(config, include_extras=True)
    fields: dict[str, Any] = dict(extra)
    for field in dataclasses.fields(config):
        fields[field.name] = (hints[field.name], _default(field))
    return create_model(config.__qualname__, __base__=Section, __doc__=_doc(config), **fields)


def _doc(config: type[Any]) -> str:
    """The docstring of a config; its list of attributes begins with those of the configs that it extends."""
    told, _, own = inspect.cleandoc(config.__doc__ or "").partition(ATTRIBUTES)
    bases = [base for base in reversed(config.__mro__[1:]) if dataclasses.is_dataclass(base)]
    inherited = [inspect.cleandoc(base.__doc__ or "").partition(ATTRIBUTES)[2].split("\n\n")[0] for base in bases]
    listed = "\n".join(filter(None, [*inherited, own]))
    return f"{told.rstrip()}\n\n{ATTRIBUTES}{listed}" if listed else told


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def choice_of(registry: Mapping[str, type[Any]]) -> Any:
    """One section for each registered class, told apart by ``name``."""
    members = [section_of(cls.Config, name=(Literal[name], ...)) for name, cls in registry.items()]
    return Annotated[reduce(or_, members), Field(discriminator="name")] if len(members) > 1 else members[0]


def power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"expected a power of two, for example {1 << (value.bit_length() - 1)}")
    return value


def _steps_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    raise ValueError("expected a number of outer steps, 1 or more, or auto")


def _steps_or_none(value: Any) -> Any:
    return 0 if type(value) is int and value == 0 else _steps_or_auto(value)


def folder_name(value: str) -> str:
    if value in ("", ".", "..") or {"/", "\\"} & set(value) or not value.isprintable() or len(value.encode()) > 200:
        raise ValueError("expected the name of a folder: no slash, nothing unprintable, 1 to 200 bytes")
    return value


MAX_TASKS = 1 << 20
"""Of one step or one evaluation: more is a slip, and their tickets would fill the driver's memory."""


AUTO = "auto"
"""A size of a task that is fitted to the classes of the data when a run begins; or of a chunk, to its memory."""
CHUNK_SIZE: Any = Annotated[int, Gt(0), Le(MAX_TASKS), AfterValidator(power_of_two)] | Literal["auto"]


def _shape_section() -> type[Section]:
    """``TaskShape`` as a section whose sizes may be ``auto``."""
    hints = typing.get_type_hints(TaskShape, include_extras=True)
    fields: dict[str, Any] = {
        field.name: (hints[field.name] | Literal["auto"], _default(field)) for field in dataclasses.fields(TaskShape)
    }
    return create_model(TaskShape.__qualname__, __base__=Section, __doc__=_doc(TaskShape), **fields)


class Tasks(Section):
    """Shapes of training and of evaluation tasks.

    What is ``auto`` is fitted to the classes of the data when a run begins: 5 ways, or 20 in training without a head; 5
    shots where each class has 10 examples or more, else 1; the other examples are queries, up to 15, or 5 in training.
    All are less where there is less. The run's recipe has the numbers.
    """

    train: _shape_section()  # type: ignore[valid-type]
    eval: Annotated[_shape_section(), MayChange()]  # type: ignore[valid-type]


class Evaluation(Section):
    """The final table's tasks, and validation on the way.

    Attributes:
        split: Where the final table's tasks are from.
        tasks: How many there are.
        seed: What they are drawn by.
        validate_every: Outer steps between two validations, of which the best theta is kept; 0 is none; ``auto`` is
            about 20 for a curve alone, of which no theta is kept. Their tasks are at most 5% of the training tasks and
            10% of their work, and there are none where the source has no split ``val`` that fills the tasks.
        validation_tasks: Tasks of a validation; the most of them for ``auto``.
    """

    split: Split = "test"
    tasks: Annotated[int, Ge(1), Le(MAX_TASKS)] = 600
    seed: Annotated[int, Ge(0), Lt(2**64)] = 20260
    validate_every: Annotated[int | Literal["auto"], BeforeValidator(_steps_or_none)] = "auto"
    validation_tasks: Annotated[int, Ge(1), Le(MAX_TASKS), NotWith(validate_every=(0,))] = 200

    @property
    def keeps_best(self) -> bool:
        """Whether the theta that is best on validation is kept, beside the last."""
        return self.validate_every not in (0, "auto")


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


WITHOUT_ENVIRONMENT = {"uri": "sqlite:///mlflow.db", "experiment": "metafleet"}
"""The defaults of ``Tracking`` where MLflow's environment variables are not set."""


def _from_environment(variable: str, otherwise: str) -> Any:
    """A default that an environment variable replaces; the page of recipes shows ``otherwise``."""
    return Field(
        default_factory=lambda: os.environ.get(variable) or otherwise, json_schema_extra={"default": otherwise}
    )


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
        report: Whether the run's end is logged as pictures, a description and a model that adapts, beside its numbers.
        parent: The id of the MLflow run that this one is shown under, if any.
    """

    uri: str = _from_environment("MLFLOW_TRACKING_URI", WITHOUT_ENVIRONMENT["uri"])
    experiment: Annotated[str, Len(1, 500)] = _from_environment(
        "MLFLOW_EXPERIMENT_NAME", WITHOUT_ENVIRONMENT["experiment"]
    )
    log_every: OuterSteps = 20
    report: bool = True
    parent: str = ""


def file_fields(section: Section) -> list[str]:
    """The fields of a section that are paths of files."""
    fields = type(section).model_fields.items()
    return [name for name, field in fields if any(isinstance(mark, FilePath) for mark in field.metadata)]


def plain(section: Section, config: type[Any]) -> Any:
    """A section as the dataclass it was made from."""
    return config(**{field.name: getattr(section, field.name) for field in dataclasses.fields(config)})
