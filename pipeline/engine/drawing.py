"""Draws the tasks of a chunk: stacked where they have one shape, and one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import PipelineError
from pipeline.core.seeding import Ticket, rngs
from pipeline.core.source import DrawsChunks, TaskSource, draws_chunks, one_of
from pipeline.core.types import Params, Phase, Task
from pipeline.engine.error_context import error_context
from pipeline.engine.interfaces import Chunk


class SampledTask(NamedTuple):
    """A sampled task with its random tensors."""

    task: Task[Any]
    noise: Params


class TaskBatch(NamedTuple):
    """Tasks of equal shape, stacked: (support, query, noise), each tensor with a leading task dimension."""

    ways: int
    tensors: tuple[Any, Any, Params]


class SampledChunk(NamedTuple):
    """The tasks of a chunk: stacked, or None where that cannot be; their weights; and a way to get them one by one."""

    together: TaskBatch | None
    weights: list[float]
    apart: Callable[[], list[SampledTask]]


class Drawing:
    """Draws tasks and their noise. Tensors come to ``device``; those of a floating type become ``dtype``.

    Whether tasks are stacked depends on their shapes alone, never on timings; without ``stacks`` none are.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        source: TaskSource[Any],
        device: torch.device,
        dtype: torch.dtype,
        *,
        stacks: bool,
    ) -> None:
        self.algorithm, self.source, self.device, self.dtype, self.stacks = algorithm, source, device, dtype, stacks
        self._noiseless: set[tuple[torch.Size, ...]] = set()
        """The shapes of chunks for whose tasks the algorithm draws nothing."""
        self._ahead: tuple[Chunk, SampledChunk] | None = None

    def one(self, ticket: Ticket, phase: Phase) -> SampledTask:
        """The task of a ticket, as its source gives it."""
        with error_context(ticket):
            task = self.source.sample(ticket)
            return SampledTask(task, self.algorithm.draw(ticket.rng("noise"), task, phase))

    def chunk(self, chunk: Chunk) -> SampledChunk:
        """The training tasks of a chunk, which may be drawn already."""
        if self._ahead is not None and self._ahead[0].step <= chunk.step:
            (known, drawn), self._ahead = self._ahead, None
            if known == chunk:
                return drawn
        return self._drawn(chunk)

    def ahead(self, chunk: Chunk) -> None:
        """Draw a chunk of the next step that will likely be asked for. One is kept, until that step."""
        if self._ahead is None:
            with suppress(PipelineError, MemoryError):  # whoever asks for the chunk is told
                self._ahead = chunk, self._drawn(chunk)

    def _drawn(self, chunk: Chunk) -> SampledChunk:
        if self.stacks and draws_chunks(self.source):
            with error_context(chunk):
                together = self._together(self.source, chunk.tickets)
            return SampledChunk(together, [1.0] * len(chunk.tickets), lambda: self._apart(chunk))
        drawn = self._apart(chunk)
        return SampledChunk(self.stack(drawn), [one.task.weight for one in drawn], lambda: drawn)

    def _apart(self, chunk: Chunk) -> list[SampledTask]:
        return [self.one(ticket, "train") for ticket in chunk.tickets]

    def _together(self, source: DrawsChunks[Any], tickets: Sequence[Ticket]) -> TaskBatch | None:
        every = source.sample_chunk(tickets)
        shapes = tuple(tensor.shape for tensor in (*every.support, *every.query))
        if shapes not in self._noiseless:
            drawn = [self._with_noise(every, *one) for one in zip(tickets, rngs(tickets, "noise"), itertools.count())]
            if any(noise for _, noise in drawn):
                return self.stack(drawn)
            self._noiseless.add(shapes)
        support, query = (type(examples)(*map(self._place, examples)) for examples in (every.support, every.query))
        return TaskBatch(every.ways, (support, query, {}))

    def _with_noise(self, every: Task[Any], ticket: Ticket, rng: np.random.Generator, number: int) -> SampledTask:
        support, query = (one_of(examples, number) for examples in (every.support, every.query))
        task = every._replace(id=ticket.id, support=support, query=query)
        return SampledTask(task, self.algorithm.draw(rng, task, "train"))

    def stack(self, drawn: Sequence[SampledTask]) -> TaskBatch | None:
        """The stacked tasks, or None where they differ in more than numbers."""
        if not self.stacks:
            return None
        flat = [pytree.tree_flatten((task.support, task.query, noise)) for task, noise in drawn]
        structure = flat[0][1]
        if any(spec != structure for _, spec in flat) or len({one.task.ways for one in drawn}) > 1:
            return None
        columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
        if any(not isinstance(leaf, Tensor) or leaf.shape != column[0].shape for column in columns for leaf in column):
            return None
        stacked = [self._place(torch.stack(column)) for column in columns]
        return TaskBatch(drawn[0].task.ways, pytree.tree_unflatten(stacked, structure))

    def to_device(self, one: SampledTask) -> Any:
        """A task with its tensors where they are computed with."""
        return pytree.tree_map_only(Tensor, self._place, one)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None).contiguous()
