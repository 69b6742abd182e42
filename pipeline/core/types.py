"""The words of the project and the values that carry them.

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
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

D = TypeVar("D")
A = TypeVar("A")

Params = dict[str, Tensor]
"""One network's named leaves. A plain dict: ``vmap`` and ``grad`` take nothing else."""

MetaParams = dict[str, Params]
"""Group -> leaves, for example ``{"model": …, "inner_lr": …}``."""

Phase = Literal["train", "evaluate", "serve"]
Kind = Literal["classification", "regression", "sequence", "optimisation"]
"""``sequence``: classification of examples that come one after the other, each label shown after its answer.
``optimisation``: a function to be made small; a task's support and query sets are the same examples."""

Labels = Literal["slots", "classes"]
"""What the labels of training tasks count: a class's slot in its task, or its fixed number among all of the split's."""

Family = Literal["optimisation", "metric", "memory", "learned optimiser", "baseline"]
"""What adaptation is made of: inner steps, distances, a state that is written to, an optimiser that was learned."""


@dataclass(frozen=True)
class MayChange:
    """Marks a field of a config, as in ``Annotated[int, MayChange()]``: it never decides theta, so it may change."""


class Batch(NamedTuple):
    """Examples: ``x`` of shape [N, *input]; ``y`` int64 [N] slots, or float [N, outputs] for a regression."""

    x: Tensor
    y: Tensor


class Stream(NamedTuple):
    """Examples in the order in which they come, each judged before its label is shown: shapes as in ``Batch``."""

    x: Tensor
    y: Tensor


class Task(NamedTuple, Generic[D]):
    """One few-shot problem. Only the algorithm looks inside ``support`` and ``query``."""

    id: str
    support: D
    query: D
    ways: int = 1
    weight: float = 1.0


class Context(NamedTuple):
    """What an algorithm may know beside its examples: the outer step, the phase, the task's ways and random tensors."""

    step: int
    phase: Phase
    ways: int
    noise: Params


class Score(NamedTuple):
    """How well adapted parameters did on a query set.

    ``loss`` is a scalar, or one scalar per group when each group sees only its own; ``metrics`` are scalars for people;
    ``records`` are detached facts for the state groups, ``{}`` for most algorithms.
    """

    loss: Tensor | dict[str, Tensor]
    metrics: dict[str, Tensor]
    records: Params = {}


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
