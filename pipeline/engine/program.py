"""A computation on tensors as one prepared program: the flat list of its operations, found by running it once.

``vmap``, inner gradients and the backward pass are Python and bookkeeping around the operations that count. What they
come to depends on shapes alone, since an algorithm has no branch on data. A program calls the same operations in the
same order, so it gives the same bits, and when it takes over decides nothing. Its first answer is compared, for other
tensors than those it was found with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.engine.recorder import Recorder, Unrecordable

PREPARED_AFTER = 20
"""Calls with the same shapes before the program is prepared, which takes as long as two to ten calls."""
MOST_KEPT = 8
"""Programs of one worker. Tasks of ever other shapes are computed without."""

Compute = Callable[..., Any]


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
        if program is not None and program.proven:
            return program(leaves)
        answer = compute(*trees)
        self.calls[signature] += 1
        if program is not None and not program.prove(leaves, answer):
            self.programs[signature] = None
        if self.calls[signature] == PREPARED_AFTER + 1 and len(self.programs) < MOST_KEPT:
            self.programs[signature] = _prepare(compute, leaves, structure)
        return answer


def _prepare(compute: Compute, leaves: Sequence[Tensor], structure: pytree.TreeSpec) -> Program | None:
    """The program; None for a computation of which there is none."""
    try:
        return Program(compute, leaves, structure)
    except Unrecordable:
        return None


class Program:
    """The operations that ``compute`` comes to with tensors like these.

    Args:
        compute: a function of trees of tensors to a tree of tensors.
        leaves: the tensors of its arguments.
        structure: of which trees they are the leaves.

    Raises:
        Unrecordable: it has too many operations, or one that is more than a function of tensors.
    """

    def __init__(self, compute: Compute, leaves: Sequence[Tensor], structure: pytree.TreeSpec) -> None:
        recorder = Recorder(leaves)
        with recorder:
            answers, self.structure = pytree.tree_flatten(compute(*pytree.tree_unflatten(leaves, structure)))
        module = recorder.module(answers)
        self.run: Callable[..., list[Tensor]] = module.forward
        self.proven = False
        """Whether it gave the bits of ``compute`` for other tensors than those it was found with."""
        if leaves[0].is_cuda:
            with suppress(RuntimeError):  # an operation that waits for the device cannot be captured
                self.run = _Graph(self.run, leaves)

    def __call__(self, leaves: Sequence[Tensor]) -> Any:
        with torch.no_grad():
            return pytree.tree_unflatten(self.run(*leaves), self.structure)

    def prove(self, leaves: Sequence[Tensor], answer: Any) -> bool:
        """Whether it gives the bits of this answer. A function of ``torch`` may not take what its operation takes."""
        try:
            given = self(leaves)
        except TypeError:
            return False
        pairs = zip(pytree.tree_leaves(given), pytree.tree_leaves(answer), strict=True)
        self.proven = all(torch.equal(found, wanted) for found, wanted in pairs)
        return self.proven


class _Graph:
    """A program as one CUDA graph: all its kernels in one launch, on tensors that stay where they are."""

    def __init__(self, run: Callable[..., list[Tensor]], leaves: Sequence[Tensor]) -> None:
        self.inputs = [leaf.clone() for leaf in leaves]
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(beside):
            run(*self.inputs)  # libraries set themselves up at a first call, which a capture cannot hold
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.outputs = run(*self.inputs)

    def __call__(self, *leaves: Tensor) -> list[Tensor]:
        for mine, given in zip(self.inputs, leaves, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return [output.clone() for output in self.outputs]
