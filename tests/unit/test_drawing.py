"""A chunk's tasks have the same bits whether they are drawn together, one by one, or ahead of the call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import DataError, TaskError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Params, Task
from pipeline.engine.chunks import chunks_of, following
from pipeline.engine.drawing import Drawing, SampledChunk
from pipeline.engine.interfaces import Chunk
from pipeline.tasks.sinusoid import Sinusoid
from pipeline.testing.compare import tensors


class Plain:
    """What a drawing asks of an algorithm: its noise, here none."""

    def draw(self, rng: np.random.Generator, task: Task[Any], phase: str) -> Params:
        return {}


class Noisy(Plain):
    def draw(self, rng: np.random.Generator, task: Task[Any], phase: str) -> Params:
        return {"order": torch.from_numpy(rng.permutation(len(task.support.x)))}


class Watched(Sinusoid):
    """Counts the calls, and fails at a step."""

    calls = 0
    bad_step = -1

    def sample(self, ticket: Ticket) -> Task[Any]:
        return super().sample(ticket)

    def sample_chunk(self, tickets: Any) -> Task[Any]:
        self.calls += 1
        if tickets[0].step == self.bad_step:
            raise DataError("the wave has broken")
        return super().sample_chunk(tickets)


def source(kind: type[Sinusoid] = Watched) -> Any:
    return kind(Sinusoid.Config(), TaskShapes(TaskShape(1, 4, 3), TaskShape(1, 4, 3)))


def drawing(algorithm: Any = None, of: Any = None) -> Drawing:
    ours: Algorithm[Any, Any] = algorithm or Plain()
    return Drawing(ours, of or source(), torch.device("cpu"), torch.float32, stacks=True)


def chunk(step: int, number: int = 1) -> Chunk:
    return chunks_of(3, step, 8, 4, purpose="train", split="train")[number]


def bits(drawn: SampledChunk) -> list[tuple[torch.Size, bytes]]:
    assert drawn.together is not None
    return [(one.shape, one.numpy().tobytes()) for one in tensors(drawn.together.tensors)]


@pytest.mark.parametrize("algorithm", [Plain(), Noisy()], ids=["plain", "noisy"])
def test_drawn_together_or_one_by_one(algorithm):
    ours = drawing(algorithm)
    drawn = ours.chunk(chunk(1))
    apart = drawn.apart()
    assert [task.id for task, _ in apart] == [ticket.id for ticket in chunk(1).tickets]
    stacked = ours.stack(apart)
    assert bits(drawn) == bits(SampledChunk(stacked, [], list))
    assert drawn.weights == [one.task.weight for one in apart]
    assert all(one.is_contiguous() for one in tensors(drawn.together.tensors))


def test_a_chunk_that_was_drawn_ahead_is_not_drawn_again():
    watched = source()
    ours = drawing(of=watched)
    ours.ahead(following(chunk(1)))
    ours.ahead(following(chunk(1)))
    assert watched.calls == 1
    assert bits(ours.chunk(chunk(2))) == bits(drawing().chunk(chunk(2)))
    assert watched.calls == 1
    ours.chunk(chunk(2))
    assert watched.calls == 2, "a chunk is kept for one call"


def test_it_is_kept_over_other_chunks_of_this_step_and_dropped_with_its_own():
    watched = source()
    ours = drawing(of=watched)
    ours.ahead(following(chunk(1)))
    ours.chunk(chunk(1, number=0))
    ours.chunk(chunk(2))
    assert watched.calls == 2
    ours.ahead(following(chunk(2)))
    assert bits(ours.chunk(chunk(3, number=0))) == bits(drawing().chunk(chunk(3, number=0)))
    ours.ahead(following(chunk(3)))
    assert bits(ours.chunk(chunk(4))) == bits(drawing().chunk(chunk(4)))


def test_what_fails_ahead_is_told_to_whoever_asks_for_it():
    watched = source()
    watched.bad_step = 2
    ours = drawing(of=watched)
    ours.ahead(following(chunk(1)))
    with pytest.raises(DataError, match="the wave has broken"):
        ours.chunk(chunk(2))


def test_an_error_while_tasks_are_drawn_together_names_them():
    class Broken(Watched):
        def sample_chunk(self, tickets: Any) -> Task[Any]:
            raise ValueError("no wave")

        def sample(self, ticket: Ticket) -> Task[Any]:
            raise NotImplementedError

    with pytest.raises(TaskError, match=r"task train/train/1/4 … train/train/1/7 of seed 3: ValueError: no wave"):
        drawing(of=source(Broken)).chunk(chunk(1))
