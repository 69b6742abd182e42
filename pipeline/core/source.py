"""The contract of a task source, the shape of a task and the spec of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.actions import Actions
from pipeline.core.bounds import MAX_COUNT, Count
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Split, Ticket
from pipeline.core.types import D, Pairs, Params, Targets, Task

S = TypeVar("S", bound=tuple[Any, ...])


@dataclass(frozen=True)
class TaskShape:
    """How big a task is.

    Attributes:
        ways: Classes; a regression task has one.
        shots: Support examples of each way; only a sequence may have none, as it can begin with nothing.
        queries: Query examples of each way.
    """

    ways: Count = 1
    shots: Annotated[int, Ge(0), Le(MAX_COUNT)] = 1
    queries: Count = 1


@dataclass(frozen=True)
class TaskShapes:
    """Training and evaluation tasks have shapes of their own."""

    train: TaskShape
    eval: TaskShape

    def of(self, ticket: Ticket) -> TaskShape:
        return self.train if ticket.purpose == "train" else self.eval


def one_of(examples: S, number: int) -> S:
    """The set of one task, from that of T tasks: a named tuple of tensors [T, …]."""
    return type(examples)(*(tensor[number] for tensor in examples))


def require_support(shapes: TaskShapes) -> None:
    """Raise ``ConfigError`` where a task would have no support set."""
    for phase, shape in (("train", shapes.train), ("eval", shapes.eval)):
        if shape.shots < 1:
            raise ConfigError(
                f"task.{phase}.shots: {shape.shots}, but there is nothing to adapt to; use 1 or more, or the source"
                " sequences, whose tasks may begin with nothing"
            )


def require_one_way(phase: str, shape: TaskShape) -> None:
    """Raise ``ConfigError`` where a task without classes is asked for more than one way."""
    if shape.ways != 1:
        raise ConfigError(f"task.{phase}.ways: {shape.ways}, but a task of this source has no classes; set it to 1")


class Tokens(NamedTuple):
    """The sizes of a transduction that an input's shape does not tell.

    Args:
        sources: how many tokens the vocabulary of sources has.
        target_length: T, to which targets are padded.
    """

    sources: int
    target_length: int


class Spec(NamedTuple):
    """What the tasks of a source are; the builder fits algorithm, network and loss to it.

    Args:
        data: the type of a support set: ``Batch``, ``Stream``, or a type of the source's own.
        input_shape: the shape of one input.
        outputs: how wide the network's output is: the ways, the classes of the split, the width of a value, the size
            of the vocabulary of targets, or the numbers that a policy's distribution takes.
        targets: what the targets of training tasks are.
        loss: a name in ``pipeline.core.losses.LOSSES``.
        integers: whether inputs are whole numbers, such as the ids of tokens, that must not become floats.
        tokens: what a network of sequences must know beside, for tasks of ``Pairs`` alone.
        actions: what a policy chooses from, for tasks of a ``Simulator`` alone.
        bounds: the least and the greatest value of an input; None where inputs may have any.
    """

    data: type
    input_shape: tuple[int, ...]
    outputs: int
    targets: Targets
    loss: str
    integers: bool = False
    tokens: Tokens | None = None
    actions: Actions | None = None
    bounds: tuple[float, float] | None = None


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


class DrawsChunks(TaskSource[D], Protocol):
    """A source that draws the training tasks of a chunk together, which is faster than one by one."""

    def sample_chunk(self, tickets: Sequence[Ticket]) -> Task[D]:
        """The tasks of these tickets of one step, as one: each of its tensors [T, …] holds those of T tasks.

        They are bit for bit the tensors that ``sample`` gives. The sets are named tuples of tensors, such as ``Batch``,
        and all of the tasks have the weight 1.

        Raises:
            DataError: the split cannot fill the shape.
        """
        ...


def draws_chunks(source: TaskSource[D]) -> TypeGuard[DrawsChunks[D]]:
    """Whether it is one. A class that defines ``sample`` alone is not, though it inherit the other method."""
    places = (source, *type(source).__mro__)
    return next("sample_chunk" in vars(place) for place in places if "sample" in vars(place))


@runtime_checkable
class Judge(Protocol):
    """A source with metrics that are not tensor operations, such as BLEU."""

    def judge(self, answers: Params, query: Any) -> dict[str, float]:
        """Metrics of one task on the host, given ``Score.answers`` and the task's query set, both on the CPU."""
        ...


@runtime_checkable
class StreamJudge(Protocol):
    """A source of streams in parts, with metrics of what is kept of earlier parts."""

    def judge_stream(self, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Further metrics [tasks, points], given those at the start of the stream and at the end of each part."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A source whose tasks depend on the version of a library, such as a simulator's."""

    versions: Mapping[str, str]
    """Library -> version: part of the numerics fingerprint."""


@runtime_checkable
class Varied(Protocol):
    """A source with settings beside the task's shape that decide which evaluation tasks there are."""

    evaluation: Mapping[str, Any]
    """Setting -> value, for example the rotations: part of the evaluation's hash, and shown beside its numbers."""


@runtime_checkable
class Named(Protocol):
    """A source whose evaluation tasks have names, for example of languages."""

    def task_names(self, split: Split) -> Sequence[str]:
        """The names of the evaluation tasks 0, 1, … of a split; after the last one they begin again."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A source that knows how much data it has."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Split -> what there is of it -> how many, for example ``{"train": {"classes": 964, "images": 19280}}``."""
        ...


class TextTask(Protocol):
    """A task that is given by texts, to be served."""

    support: Pairs
    """Its pairs as tokens."""

    def inputs(self, sources: Sequence[str]) -> Tensor:
        """Texts as tokens [N, S]. Raises ``DataError`` where one has no symbols."""
        ...

    def answers(self, tokens: Tensor) -> list[str]:
        """The texts of answers [N, T]."""
        ...


class TextTasks(Protocol):
    """What serves tasks of pairs of texts, with a source or without."""

    def language(self, sources: Sequence[str], targets: Sequence[str]) -> TextTask:
        """The task of these pairs. Raises ``DataError`` where a text has no symbols."""
        ...

    def saved(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        ...


@runtime_checkable
class HasTexts(Protocol):
    """A source whose tasks are pairs of texts."""

    @property
    def texts(self) -> TextTasks:
        """What serves them."""
        ...


@runtime_checkable
class HasClasses(Protocol):
    """A source whose tasks are drawn from classes of examples, so that trained classes can be recognised."""

    def contents(self, split: Split) -> frozenset[str]:
        """One identifier for each class of a split, equal for the same examples in any file."""
        ...


@runtime_checkable
class NamesClasses(Protocol):
    """A source that says which class each slot of an evaluation task is, in ``Task.classes``."""

    def class_names(self, split: Split) -> Sequence[str]:
        """The names of the classes that evaluation tasks of a split are drawn from, by their numbers."""
        ...


@runtime_checkable
class HasSizes(Protocol):
    """A source whose tasks take shots + queries examples of each class, so that tasks can be fitted to its classes."""

    def class_sizes(self, split: Split, *, training: bool) -> Sequence[tuple[str, int]]:
        """The name of each class of a split and how many examples it has, for tasks of training or of evaluation.

        Raises:
            DataError: there is no such split.
        """
        ...


@runtime_checkable
class Prepared(Protocol):
    """A source whose inputs were made of raw ones, such as pictures."""

    @property
    def preparation(self) -> Mapping[str, Any] | None:
        """How, as JSON has it, so that serving does the same; None where the data do not say."""
        ...


class Preparation(Protocol):
    """Makes inputs of raw ones, as it was done with the training data."""

    def takes(self, values: Any) -> bool:
        """Whether ``values`` are raw inputs, and not inputs as training has them."""
        ...

    def prepare(self, values: Any, name: str) -> np.ndarray:
        """N raw inputs as inputs [N, *input]. Raises ``DataError`` that begins with ``name``."""
        ...
