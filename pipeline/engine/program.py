"""A computation on tensors as one prepared program: the flat list of its operations, found by running it once.

``vmap``, inner gradients and the backward pass are Python and bookkeeping around the operations that count. What they
come to depends on shapes alone, since an algorithm has no branch on data. A program calls the same operations in the
same order, so it gives the same bits, and when it takes over decides nothing. The first answer is compared.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

PREPARED_AFTER = 50
"""Calls with the same shapes before the program is prepared, which takes as long as some hundred calls."""
MOST_KEPT = 8
"""Programs of one worker. Tasks of ever other shapes are computed without."""
MOST_OPERATIONS = 4000
"""Of a program. It takes seconds to find so many, and a worker must answer before it is taken for lost."""

Compute = Callable[..., Any]
_ATEN = torch.ops.aten


class Prepared:
    """Computes functions of trees of tensors, from ``PREPARED_AFTER`` calls on by a program.

    A function must come to the same operations whenever its ``key`` and the shapes of its tensors are the same.
    """

    def __init__(self) -> None:
        self.calls: Counter[Hashable] = Counter()
        self.programs: dict[Hashable, Program | None] = {}

    def __call__(self, key: Hashable, compute: Compute, *trees: Any) -> Any:
        leaves, structure = pytree.tree_flatten(trees)
        signature = (key, structure, tuple((leaf.shape, leaf.stride(), leaf.dtype) for leaf in leaves))
        program = self.programs.get(signature)
        if program is None:
            self.calls[signature] += 1
            answer = compute(*trees)
            if self.calls[signature] == PREPARED_AFTER + 1 and len(self.programs) < MOST_KEPT:
                self.programs[signature] = _prepare(compute, leaves, structure, answer)
            return answer
        return program(leaves)


class _TooLong(Exception):
    """A computation has more than ``MOST_OPERATIONS``."""


class _Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and raises ``_TooLong``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = MOST_OPERATIONS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _TooLong
        return func(*args, **(kwargs or {}))


def _prepare(compute: Compute, leaves: Sequence[Tensor], structure: pytree.TreeSpec, answer: Any) -> Program | None:
    """The program; None for a computation that is too long for one, or where it does not give this answer's bits."""
    try:
        program = Program(compute, leaves, structure)
    except _TooLong:
        return None
    pairs = zip(pytree.tree_leaves(program(leaves)), pytree.tree_leaves(answer), strict=True)
    return program if all(torch.equal(found, wanted) for found, wanted in pairs) else None


class Program:
    """The operations that ``compute`` comes to with tensors like these.

    Args:
        compute: a function of trees of tensors to a tree of tensors.
        leaves: the tensors of its arguments.
        structure: of which trees they are the leaves.

    Raises:
        _TooLong: it has more than ``MOST_OPERATIONS``.
    """

    def __init__(self, compute: Compute, leaves: Sequence[Tensor], structure: pytree.TreeSpec) -> None:
        found: list[pytree.TreeSpec] = []

        def flat(leaves: Sequence[Tensor]) -> list[Tensor]:
            answers, of_answers = pytree.tree_flatten(compute(*pytree.tree_unflatten(leaves, structure)))
            found.append(of_answers)
            return answers

        with _Limit():
            traced = make_fx(flat)(list(leaves))
        _simplify(traced.graph)
        traced.recompile()
        self.run: Callable[[Sequence[Tensor]], list[Tensor]] = traced
        self.structure = found[0]
        if leaves[0].is_cuda:
            with suppress(RuntimeError):  # an operation that waits for the device cannot be captured
                self.run = _Graph(traced, leaves)

    def __call__(self, leaves: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            return pytree.tree_unflatten(self.run(list(leaves)), self.structure)


class _Graph:
    """A program as one CUDA graph: all its kernels in one launch, on tensors that stay where they are."""

    def __init__(self, run: Callable[[Sequence[Tensor]], list[Tensor]], leaves: Sequence[Tensor]) -> None:
        self.inputs = [leaf.clone() for leaf in leaves]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(beside):
            run(self.inputs)  # libraries set themselves up at a first call, which a capture cannot hold
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.outputs = run(self.inputs)

    def __call__(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        for mine, given in zip(self.inputs, leaves, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return [output.clone() for output in self.outputs]


def _simplify(graph: fx.Graph) -> None:
    """Leave out what nobody reads, what only marks a tensor, what was computed before, and views of views."""
    known: dict[Hashable, fx.Node] = {}
    writes = any(_writes(node) for node in graph.nodes)
    for node in graph.nodes:
        if node.target in _VIEWS:
            _shorten(graph, node)
        if node.target is _ATEN.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif node.op == "call_function" and not writes and _repeats(node):
            key = (node.target, _frozen(node.args), _frozen(node.kwargs))
            earlier = known.setdefault(key, node)
            if earlier is not node:
                node.replace_all_uses_with(earlier)
    graph.eliminate_dead_code()


_VIEWS = frozenset(
    (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.t.default, _ATEN.transpose.int, _ATEN.permute.default)
    + (_ATEN.expand.default, _ATEN.unsqueeze.default, _ATEN.squeeze.dim, _ATEN.squeeze.dims)
)
"""Views of all of a tensor, which begin where it begins."""


def _shorten(graph: fx.Graph, view: fx.Node) -> None:
    """Let a view of a view look at the tensor itself, and one that looks like that tensor be it."""
    seen, own = view.all_input_nodes[0], view.meta["val"]
    base = seen.all_input_nodes[0] if seen.target is _ATEN.as_strided.default else seen
    if (own.shape, own.stride()) == (base.meta["val"].shape, base.meta["val"].stride()):
        view.replace_all_uses_with(base)
        return
    with graph.inserting_before(view):
        direct = graph.call_function(_ATEN.as_strided.default, (base, list(own.shape), list(own.stride())))
    direct.meta["val"] = own
    view.replace_all_uses_with(direct)


def _writes(node: fx.Node) -> bool:
    """Whether it writes into a tensor: then equal calls before and after it may differ."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _repeats(node: fx.Node) -> bool:
    """Whether a second call with the same arguments gives the same."""
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in node.target.tags
    return node.target is operator.getitem


def _frozen(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return (type(value), *map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(one)) for name, one in sorted(value.items()))
    return (type(value), value)
