"""Where tasks come from: the contract of a task source, the shape of a task and what a source says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from annotated_types import Ge, Le

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.types import D, Kind, Task

Rotations = Literal["none", "classes", "random"]
"""``classes``: each quarter turn of a class is a class of its own (ProtoNet, Reptile in training). ``random``: one turn
drawn per class and task, so turns of one class never compete (MAML). They give different numbers: say which."""


MAX_COUNT = 1 << 16
"""Of ways, shots or queries: more is a slip of the hand, and would end in no memory."""


@dataclass(frozen=True)
class TaskShape:
    """How big a task is. ``shots`` and ``queries`` count per way; a regression task has one way.

    Only a sequence may have no shots: it can begin with nothing.
    """

    ways: Annotated[int, Ge(1), Le(MAX_COUNT)] = 1
    shots: Annotated[int, Ge(0), Le(MAX_COUNT)] = 1
    queries: Annotated[int, Ge(1), Le(MAX_COUNT)] = 1
    rotations: Rotations = "none"


@dataclass(frozen=True)
class TaskShapes:
    """Training and evaluation tasks have shapes of their own."""

    train: TaskShape
    eval: TaskShape

    def of(self, ticket: Ticket) -> TaskShape:
        return self.train if ticket.purpose == "train" else self.eval


def require_support(shapes: TaskShapes) -> None:
    """Raise ``ConfigError`` where a task would have no support set."""
    for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
        if shape.shots < 1:
            raise ConfigError(
                f"task.{phase}.shots: {shape.shots}, but there is nothing to adapt to; use 1 or more, or the source"
                " sequences, whose tasks may begin with nothing"
            )


class Spec(NamedTuple):
    """What a network must fit: the shape of one input, the width of the output and the kind of problem."""

    kind: Kind
    input_shape: tuple[int, ...]
    outputs: int


class TaskSource(Protocol[D]):
    """Samples tasks. ``sample`` is pure in the ticket; the same ticket gives the same task on any machine."""

    Config: ClassVar[type[Any]]
    """A frozen dataclass: the source's fields in a recipe."""

    splits: tuple[Split, ...]
    fingerprint: str
    """Hash of the data (or of the distribution), recorded with every run and compared on resume."""

    def __init__(self, config: Any, shapes: TaskShapes) -> None: ...

    def spec(self) -> Spec:
        """The training tasks' spec."""
        ...

    def sample(self, ticket: Ticket) -> Task[D]:
        """The task of a ticket. Raises ``DataError`` where the split cannot fill the shape."""
        ...
