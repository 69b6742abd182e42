"""A recipe as one frozen, typed value, made of sections and of whatever is registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, Field, create_model

from pipeline.algorithms import ALGORITHMS
from pipeline.config.sections import (
    AUTO,
    CHUNK_SIZE,
    MAX_TASKS,
    Checkpoint,
    Evaluation,
    Section,
    Tasks,
    Tracking,
    WorkerCount,
    choice_of,
    folder_name,
    plain,
    section_of,
)
from pipeline.config.since import settings_since
from pipeline.core.bounds import OuterSteps
from pipeline.core.effects import NotWith
from pipeline.core.failures import ConfigError
from pipeline.core.plugins import imported
from pipeline.core.redact import redact_uri
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import FilePath, MayChange
from pipeline.engine.durability.identity import Identity
from pipeline.engine.numerics import Numerics
from pipeline.engine.outer.optimizer import Outer
from pipeline.nets import NETS
from pipeline.nets.normalisation import Mode
from pipeline.tasks import SOURCES


class Recipe(Section):
    """Everything a run is made of.

    A run that is resumed with another value must be told it is another run, except where the value never decides theta:
    those are marked ``MayChange`` or ``FilePath``, here or in the file of their own config.

    Attributes:
        name: A folder under ``runs``, and what MLflow shows.
        seed: What theta's start and all training tasks are drawn by; null draws a seed.
        steps: Outer steps.
        tasks_per_step: Tasks of an outer step.
        chunk_size: Tasks that a worker computes in one call, a power of two. ``auto`` is the most, up to a quarter of a
            step, whose tensors need at most 64 MB, or 8 GB where workers have GPUs. The run's recipe has the number.
        max_staleness: The most updates that theta may have had since a step's gradient was taken. Workers compute the
            tasks of ``max_staleness + 1`` steps at one theta and do not wait for the updates between. 0 takes each
            gradient at the newest theta.
        normalisation: What hidden layers are normalised by, if by anything.
    """

    name: Annotated[str, AfterValidator(folder_name), MayChange()]
    seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    steps: OuterSteps
    tasks_per_step: Annotated[int, Gt(0), Le(MAX_TASKS)]
    chunk_size: CHUNK_SIZE = AUTO  # type: ignore[valid-type]
    max_staleness: Annotated[int, Ge(0), Le(1 << 10), NotWith(steps=(1,))] = 0
    algorithm: Any
    net: Any
    source: Any
    normalisation: Mode
    task: Tasks
    outer: dict[str, section_of(Outer)]  # type: ignore[valid-type]
    evaluation: Annotated[Evaluation, MayChange()] = Evaluation()
    numerics: section_of(Numerics) = section_of(Numerics)()  # type: ignore[valid-type]
    workers: Annotated[WorkerCount, MayChange()] = WorkerCount()
    checkpoint: Annotated[Checkpoint, MayChange()] = Checkpoint()
    tracking: Annotated[Tracking, MayChange()] = Field(default_factory=Tracking)

    def shapes(self) -> TaskShapes:
        """Raises ``ConfigError`` where a size is still ``auto``."""
        open_sizes = [*self.open_sizes(), *(["chunk_size"] if self.chunk_size == AUTO else [])]
        if open_sizes:
            raise ConfigError(f"{open_sizes[0]}: auto is fitted when a run begins; here give a number")
        return TaskShapes(plain(self.task.train, TaskShape), plain(self.task.eval, TaskShape))

    @property
    def tasks_at_one_theta(self) -> int:
        """The most training tasks that workers may compute at once."""
        return self.tasks_per_step * (1 + self.max_staleness)

    def open_sizes(self) -> list[str]:
        """The sizes of tasks that are ``auto``, by dotted key."""
        sizes = self.task.model_dump()
        return [f"task.{phase}.{name}" for phase, one in sizes.items() for name, size in one.items() if size == AUTO]

    def public(self) -> dict[str, Any]:
        """Keys and values as they are printed, saved with the run and logged: without the tracking URI's secrets."""
        whole = self.model_dump(mode="json")
        return whole | {"tracking": whole["tracking"] | {"uri": redact_uri(self.tracking.uri)}}

    def adaptation(self) -> dict[str, Any]:
        """The settings, by dotted keys, of how a theta adapts and answers at evaluation: they do not decide theta."""
        free = self.identity("").free
        return {key: value for key, value in free.items() if key.startswith(("algorithm.", "net."))}

    def identity(self, data: str) -> Identity:
        """What a resume is compared by. ``data`` is the source's fingerprint."""
        values = {key: (value, free) for key, value, free in _values(self)}
        # Steps decide theta only where the learning rate follows them.
        follows = any(outer.schedule in ("linear", "cosine") for outer in self.outer.values())
        values["steps"] = (self.steps, not follows)
        del values["tracking.uri"]  # it may hold a password, and checkpoints are copied about
        if imported():
            values["plugins"] = (list(imported()), True)
        return Identity(
            {"data": data} | {key: value for key, (value, free) in values.items() if not free},
            {key: value for key, (value, free) in values.items() if free},
            settings_since(self.algorithm.name, self.net.name, self.source.name),
        )


REGISTRIES: dict[str, Mapping[str, type[Any]]] = {"algorithm": ALGORITHMS, "net": NETS, "source": SOURCES}


def recipe_type() -> type[Recipe]:
    """``Recipe`` with the sections of everything that is registered now, plug-ins included."""
    return _recipe_type(tuple(ALGORITHMS), tuple(NETS), tuple(SOURCES))


@lru_cache(maxsize=4)
def _recipe_type(*names: tuple[str, ...]) -> type[Recipe]:
    choices: dict[str, Any] = {part: (choice_of(registry), ...) for part, registry in REGISTRIES.items()}
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, **choices)


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
