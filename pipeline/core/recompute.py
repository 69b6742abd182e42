"""Operations that are computed again in the backward pass, so that their graph is not kept until then.

``torch.utils.checkpoint`` works by hooks of saved tensors, which ``torch.func`` forbids.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

PLAIN = (Tensor, bool, int, float, str, type(None))
"""What holds no tensor but itself."""
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Partial:
    """A function with its first arguments, which are a tree, so that the tensors among them can be found.

    A function that closes over its tensors hides them. JAX has the same, as ``jax.tree_util.Partial``.

    >>> Partial(torch.sub, (torch.tensor(3.0),))(torch.tensor(1.0))
    tensor(2.)
    """

    function: Callable[..., Any]
    given: tuple[Any, ...]

    def __call__(self, *others: Any) -> Any:
        return self.function(*self.given, *others)


pytree.register_pytree_node(
    Partial,
    lambda one: (list(one.given), one.function),
    lambda given, function: Partial(function, tuple(given)),
)


def shows_tensors(thing: Any) -> bool:
    """Whether all tensors that it computes from can be found: in it are tensors, plain values, and each function is a
    ``Partial`` of one that closes over nothing. An object of a class of one's own may hold tensors where none looks.
    """
    if isinstance(thing, Partial):
        closes = not inspect.ismethod(thing.function) and _closes(thing.function)
        return not closes and shows_tensors(thing.given)
    parts = pytree.tree_leaves(thing, is_leaf=lambda part: isinstance(part, Partial))
    return all(shows_tensors(part) if isinstance(part, Partial) else isinstance(part, PLAIN) for part in parts)


def _closes(function: Callable[..., Any]) -> bool:
    return bool(getattr(function, "__closure__", None))


def recomputed(function: Callable[[In], Out], inputs: In) -> Out:
    """``function(inputs)``, of which a graph keeps the inputs alone. The backward pass computes it a second time.

    Args:
        function: gives a tree of tensors. It closes over no tensor of a batch and none that has a gradient.
        inputs: a tree. Its tensors are saved for the backward pass.
    """
    leaves, structure = pytree.tree_flatten(inputs)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[place] for place in places]
    others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    form: list[pytree.TreeSpec] = []

    def flat(*given: Tensor) -> tuple[Tensor, ...]:
        outputs, spec = pytree.tree_flatten(function(pytree.tree_unflatten(_filled(others, places, given), structure)))
        form[:] = [spec]
        return tuple(outputs)

    outputs = _Recomputed.apply(flat, *tensors)  # type: ignore[no-untyped-call]
    found: Out = pytree.tree_unflatten(outputs, form[0])
    return found


class _Recomputed(torch.autograd.Function):
    """``forward(function, *tensors)`` is ``function(*tensors)``, a tuple of tensors."""

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        # A view, because torch.func's operators see that a saved tensor's transform has ended, and apply does not.
        tensors = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
        wanted = [place for place, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        used = [place for place, slope in enumerate(slopes) if slope is not None]

        def of_wanted(*given: Tensor) -> tuple[Tensor, ...]:
            outputs = ctx.function(*_filled(tensors, wanted, given))
            return tuple(outputs[place] for place in used)

        _, pull = torch.func.vjp(of_wanted, *(tensors[place] for place in wanted))  # type: ignore[misc]
        pulled = pull(tuple(slopes[place] for place in used), retain_graph=torch.is_grad_enabled())
        return tuple(_filled([None] * (1 + len(tensors)), [1 + place for place in wanted], pulled))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # A tensor that all tasks share stays shared, as it would without recomputation: same operations, same bits.
        together = torch.func.vmap(function, in_dims[1:], randomness=info.randomness)
        outputs = _Recomputed.apply(together, *tensors)  # type: ignore[no-untyped-call]
        return outputs, (0,) * len(outputs)


def _filled(values: Sequence[Any], places: Sequence[int], given: Sequence[Any]) -> list[Any]:
    """The values, with those at ``places`` replaced."""
    filled = list(values)
    for place, value in zip(places, given, strict=True):
        filled[place] = value
    return filled
