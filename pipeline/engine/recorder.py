"""The operations of a computation, written down while it runs."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.engine.dispatch_mode import DispatchMode

MOST_OPERATIONS = 20_000
"""It takes seconds to write down so many, and a worker must answer before it is taken for lost."""
LOOKS = "looks"
"""The shape and the strides of a node's tensor."""
_ATEN = torch.ops.aten
_UNFIT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
"""Operations that make a number in Python or a shape of a tensor's values, and those that draw."""


class Unrecordable(Exception):
    """A computation has too many operations, or one that is more than a function of tensors."""


class Recorder(DispatchMode):
    """Writes down each operation within as a node of a graph.

    It sees what is left of ``vmap`` and gradients: plain operations on plain tensors. A tensor that is neither given
    nor made by one of them is a constant. ``make_fx`` of torch does the same in six times the time.

    Args:
        inputs: the tensors that the computation will be given anew.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._nodes = WeakTensorKeyDictionary()
        self._left = MOST_OPERATIONS
        for number, tensor in enumerate(inputs):
            self._know(tensor, self.graph.placeholder(f"input{number}"))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left < 0 or _is_unfit(func, args):
            raise Unrecordable
        if func is _ATEN.lift_fresh.default:
            func = _ATEN.lift_fresh_copy.default  # it may be written into, and is a constant
        given = pytree.tree_map(self._node_of, (args, kwargs or {}))  # first: it may write into them
        answer = func(*args, **(kwargs or {}))
        self._know(answer, self.graph.call_function(func, *given))
        return answer

    def module(self, answers: Sequence[Tensor]) -> fx.GraphModule:
        """A function of the inputs that calls the operations in the same order, and gives these answers."""
        self.graph.output([self._node_of(one) for one in answers])
        simplify(self.graph)
        for node in self.graph.nodes:
            node.target = _direct(node.target)
        return fx.GraphModule(self.constants, self.graph)

    def _know(self, answer: Any, node: fx.Node) -> None:
        if isinstance(answer, Tensor):
            self._nodes[answer] = node
            node.meta[LOOKS] = (answer.shape, answer.stride())
        elif isinstance(answer, list | tuple):
            for number, part in enumerate(answer):
                self._know(part, self.graph.call_function(operator.getitem, (node, number)))

    def _node_of(self, value: Any) -> Any:
        """A tensor's node, and any other value as it is."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant{len(self.constants)}"
            self.constants[name] = value.detach()
            self._know(value, self.graph.get_attr(name))
        return self._nodes[value]


def _is_unfit(func: OpOverload, args: Any) -> bool:
    """Whether it may give another number, shape or draw the next time. A choice of rows by their numbers does not."""
    if func is _ATEN.index.Tensor:
        return any(isinstance(rows, Tensor) and rows.dtype in (torch.bool, torch.uint8) for rows in args[1])
    return not _UNFIT.isdisjoint(func.tags)


def _direct(target: Any) -> Any:
    """The function in ``torch`` that does the same: the way through ``torch.ops`` takes 2 microseconds more.

    Those that are written in Python are left out: what they do beside the operation of their name is theirs.
    """
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return target
    function = getattr(torch, target._schema.name.removeprefix("aten::"), None)
    return function if isinstance(function, BuiltinFunctionType) else target


def simplify(graph: fx.Graph) -> None:
    """Leave out what nobody reads, what only marks a tensor, what was computed before, and views of views."""
    known: dict[Hashable, fx.Node] = {}
    writes = any(_writes(node) for node in graph.nodes)
    for node in graph.nodes:
        if node.target in _VIEWS:
            _shorten(graph, node)
        if node.target is _ATEN.detach.default or (node.target is _ATEN.lift_fresh_copy.default and not writes):
            node.replace_all_uses_with(node.args[0])
        elif node.op == "call_function" and not writes:
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
    seen, own = view.all_input_nodes[0], view.meta[LOOKS]
    base = seen.all_input_nodes[0] if seen.target is _ATEN.as_strided.default else seen
    if own == base.meta[LOOKS]:
        view.replace_all_uses_with(base)
        return
    with graph.inserting_before(view):
        direct = graph.call_function(_ATEN.as_strided.default, (base, *map(list, own)))
    direct.meta[LOOKS] = own
    view.replace_all_uses_with(direct)


def _writes(node: fx.Node) -> bool:
    """Whether it writes into a tensor: then equal calls before and after it may differ."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _frozen(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return (type(value), *map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(one)) for name, one in sorted(value.items()))
    return (type(value), value)
