"""Turns requests into calls of a learner, and what it says into JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.agent import Agent
from pipeline.core.failures import DataError
from pipeline.core.flat import Layout, sha256
from pipeline.core.types import MetaParams
from pipeline.serving.agent import Actor
from pipeline.serving.answers import answers_of, episodes_of
from pipeline.serving.http.body import fields
from pipeline.serving.http.limits import Limits, Refused
from pipeline.serving.http.pictures import decoded
from pipeline.serving.learner import SERVED, Learner

T = TypeVar("T")
ALIGNED = 64
"""Bytes at whose multiples tensors begin, as the allocator has it: elsewhere kernels may add in another order."""


def adapted(learner: Learner, body: Mapping[str, Any], limits: Limits) -> Any:
    """What ``learner.adapt`` gives for the body of ``POST /adapt``: a value of this session's own.

    Raises:
        Refused: keys are missing or unknown, or there are too many rows.
        DataError: shapes, values or labels that do not fit.
    """
    if isinstance(learner.algorithm, Agent):
        (x,) = fields(body, (), ("support_x",))
        episodes = episodes_of(_rows(x, "support_x", limits))
        for number, parts in enumerate(episodes):
            _rows(parts[-1], f"support_x[{number}]", limits)
        actor = learner.adapt(episodes or None)
        # Its random numbers are its own: no other user's actions change them.
        return Actor(actor.agent, actor.adapted, actor.spec, actor.dtype, SERVED.rng("noise"))
    x, y = fields(body, ("support_x",), ("support_y",))
    _rows(x, "support_x", limits)
    if learner.texts is None:
        x = decoded(x, "support_x")
        if learner.spec.targets != "values" and learner.spec.tokens is None:
            _labels(y)
    return learner.adapt(x, y)


def _rows(values: Any, name: str, limits: Limits) -> Any:
    """The values, which are few enough; what is no list the learner refuses."""
    if isinstance(values, list) and len(values) > limits.rows:
        raise Refused(422, f"{name}: {len(values)} rows, and the limit is {limits.rows}")
    return values


def _labels(values: Any) -> None:
    """Labels of one kind, since in Python True, 1 and 1.0 are one label."""
    kinds = {type(one) for one in values} if isinstance(values, list) else {None}
    if len(kinds) > 1 or not kinds <= {str, int, bool}:
        raise DataError("support_y: expected a list of texts, or of whole numbers, or of true and false")


def answered(learner: Learner, predictor: Any, x: Any, limits: Limits) -> dict[str, Any]:
    """The body of the answer to ``POST /predict``.

    Raises:
        Refused: there are too many rows.
        DataError: shapes or values that do not fit.
    """
    _rows(x, "query_x", limits)
    if isinstance(predictor, Actor):
        raise DataError("query_x: this model is an agent; POST /act with an observation instead")
    return answers_of(learner, predictor, decoded(x, "query_x") if learner.texts is None else x)


def packed(value: T, theta: MetaParams) -> tuple[T, int]:
    """A copy of an adapted value in one piece of memory, and the bytes it takes; what is theta's own stays shared.

    The allocator keeps many small tensors, made between larger ones, in twice the memory.
    """
    shared = {leaf.untyped_storage().data_ptr() for leaves in theta.values() for leaf in leaves.values()}
    leaves, structure = pytree.tree_flatten(value)
    own = [isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in shared for leaf in leaves]
    used = [leaf.numel() * leaf.element_size() if mine else 0 for leaf, mine in zip(leaves, own, strict=True)]
    sizes = [-(-size // ALIGNED) * ALIGNED for size in used]
    parts = torch.split(torch.empty(sum(sizes), dtype=torch.uint8), sizes)
    copied = [
        part[:size].view(leaf.dtype).view(leaf.shape).copy_(leaf) if mine else leaf
        for part, size, leaf, mine in zip(parts, used, leaves, own, strict=True)
    ]
    return pytree.tree_unflatten(copied, structure), sum(sizes)


def described(learner: Learner) -> dict[str, Any]:
    """What ``GET /model`` says of a learner."""
    spec, theta = learner.spec, learner.theta
    layout = Layout.of(theta, learner.dtype)
    return {
        "algorithm": type(learner.algorithm).__name__,
        "task": "language" if learner.texts else "agent" if spec.actions else spec.targets,
        "input_shape": list(spec.input_shape),
        "ways": spec.outputs if learner.algorithm.needs.head and spec.targets == "slots" else None,
        "parameters": sum(math.prod(leaf.shape) for leaf in layout.leaves),
        "theta_sha256": sha256(layout.pack(theta)),
    }
