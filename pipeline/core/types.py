"""The glossary of the project and its value types.

Glossary
    theta       the meta-parameters: what the outer loop learns and all tasks start from.
    phi         one task's adapted parameters: theta after the inner loop.
    task        a small problem: a support set to adapt on and a query set to be judged on.
    ways, shots classes in a task; labelled support examples of each.
    episode     another word for one task as it is sampled.
    inner/outer the loop over one task's support set; the loop over batches of tasks.
    step        one outer update.
    slot        a class's number inside a task, 0 … ways-1. Names of classes live in the source and in serving.
    group       a named part of theta with an outer optimizer of its own. A *state* group has none: it is only folded.
    chunk       the tasks of one step that a worker computes in one call; fixed by the recipe, never by the workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

D = TypeVar("D")
A = TypeVar("A")

Params = dict[str, Tensor]
"""One network's named leaves. A plain dict: ``vmap`` and ``grad`` take nothing else."""

MetaParams = dict[str, Params]
"""Group -> leaves, for example ``{"model": …, "inner_lr": …}``."""

Phase = Literal["train", "evaluate", "serve"]
Targets = Literal["slots", "classes", "labels", "values", "tokens", "none"]
"""What the targets of training tasks are: a class's slot in its task, its fixed number among all classes of the split,
its number among classes that are the same in all tasks, real values, sequences of tokens, or nothing at all (a
simulator). Where training has ``classes``, evaluation tasks count slots."""

Family = Literal["optimisation", "metric", "memory", "neural process", "learned optimiser", "policy", "baseline"]
"""The means of adaptation: inner steps, distances, a state that is written, a code of the support set, a learned
optimiser, or episodes that a policy has acted in."""


class Needs(NamedTuple):
    """What an algorithm takes; the builder compares it with the source's ``Spec``.

    Args:
        data: the types of a support set that it can adapt to.
        targets: what the targets of its training tasks may be.
        head: whether its network ends in one output per way; a metric method asks for the embedding instead.
    """

    data: tuple[type, ...]
    targets: tuple[Targets, ...]
    head: bool


class About(NamedTuple):
    """What the page of algorithms says of one: its family, and its paper (authors, year, arXiv id)."""

    family: Family
    paper: str


@dataclass(frozen=True)
class MayChange:
    """Marks a field that never decides theta, as in ``Annotated[int, MayChange()]``. A resume may change it."""


@dataclass(frozen=True)
class FilePath:
    """Marks a field of a config as the path of a file, as in ``Annotated[str, FilePath()]``.

    The driver makes it absolute, since a worker's working directory is another. The path never decides theta; the
    content of the file does, and the source's fingerprint identifies it.
    """


class Batch(NamedTuple):
    """Examples: ``x`` of shape [N, *input]; ``y`` int64 [N] slots, or float [N, outputs] for a regression."""

    x: Tensor
    y: Tensor


class Stream(NamedTuple):
    """Examples in the order in which they come, each judged before its label is shown: shapes as in ``Batch``."""

    x: Tensor
    y: Tensor


class Sets(NamedTuple):
    """Support sets of equal size that come one after the other: shapes as in ``Batch``.

    ``number`` int64 [N] says which set an example is of, from 0. A learner sees no earlier set again.
    """

    x: Tensor
    y: Tensor
    number: Tensor


class Points(NamedTuple):
    """A set of points of a function, padded to a fixed size: x [N, *input], y [N, outputs], and ``mask`` [N], which is
    1 for a point and 0 for padding."""

    x: Tensor
    y: Tensor
    mask: Tensor


class Pairs(NamedTuple):
    """Pairs of sequences of tokens: ``source`` [N, S] and ``target`` [N, T], int64.

    A target ends with the token ``END``, and ``PADDING`` follows to the fixed length. A pair of padding alone is none:
    it fills up a set that has fewer pairs than others.
    """

    source: Tensor
    target: Tensor

    @property
    def x(self) -> Tensor:
        """The sources, under the name that ``Batch`` has for inputs."""
        return self.source

    @property
    def y(self) -> Tensor:
        """The targets, under the name that ``Batch`` has for labels."""
        return self.target


class Simulator(NamedTuple):
    """N episodes of a world that are still to be acted in: the support or the query set of an agent's task.

    Args:
        world: a ``core.world.World``: the parameters of the task's world.
        episodes: all randomness of N episodes, save that of the actions; each tensor [N, …].
        clock: the times of an episode's steps [H], from 0 to below 1.
    """

    world: Any
    episodes: Params
    clock: Tensor

    @property
    def rows(self) -> int:
        """N, how many episodes there are."""
        return len(next(iter(self.episodes.values())))

    @property
    def horizon(self) -> int:
        """H, the most steps of an episode."""
        return len(self.clock)

    def take(self, first: int, count: int) -> Simulator:
        """``count`` of the episodes, from number ``first`` on."""
        return self._replace(episodes={name: leaf[first : first + count] for name, leaf in self.episodes.items()})


class Episodes(NamedTuple):
    """N episodes that were acted in, padded to H steps.

    Args:
        observations: [N, H, *observation], what each action was chosen by.
        actions: [N, H] int64 of a discrete choice, or [N, H, A] numbers.
        rewards: [N, H], 0 after an episode's end.
        alive: [N, H], 1 for a step that was taken and 0 after an episode's end.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor


PADDING, END, UNKNOWN = 0, 1, 2
"""The tokens that every vocabulary begins with."""


class Task(NamedTuple, Generic[D]):
    """One few-shot problem. Only the algorithm looks inside ``support`` and ``query``.

    ``classes`` are the numbers of the classes in its slots, as ``NamesClasses`` counts them; empty where a source has
    no names for them.
    """

    id: str
    support: D
    query: D
    ways: int = 1
    weight: float = 1.0
    classes: tuple[int, ...] = ()


class Context(NamedTuple):
    """What an algorithm may know beside its examples: the outer step, the phase, the task's ways and random tensors."""

    step: int
    phase: Phase
    ways: int
    noise: Params


class Score(NamedTuple):
    """How well an adapted value did on a query set.

    Args:
        loss: a scalar.
        metrics: scalars for people, by name.
        records: detached facts for the state groups, ``{}`` for most algorithms.
        answers: tensors that the source's ``judge`` turns into metrics on the host; ``{}`` where there are none.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    records: Params = {}
    answers: Params = {}


class Contribution(NamedTuple):
    """What a chunk sends to the parameter actor: the weighted *sum* of its tasks' gradients, and the sum of weights.

    ``gradient`` is one flat vector in the recipe's dtype, laid out by ``flat.Layout`` over ``groups`` (the groups that
    are to be stepped); ``records`` holds one entry per used task, in slot order.
    """

    chunk: int
    groups: tuple[str, ...]
    gradient: np.ndarray
    weight: float
    records: list[dict[str, np.ndarray]]
