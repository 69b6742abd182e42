"""Contributions that are added up part by part before they reach the parameter actor."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.types import Contribution
from pipeline.engine.chunks import blocks_of
from pipeline.engine.interfaces import Chunk
from pipeline.engine.outer.reduce import block_sum
from pipeline.runtime.reduction import FAN_IN, summed

pytestmark = pytest.mark.usefixtures("torch_threads")


def contributions(chunks: int, workers: int) -> dict[int, Contribution]:
    """Those of a step by slot, of numbers of many sizes, in blocks as so many workers are given."""
    rng = np.random.default_rng(chunks)
    drawn = (rng.normal(size=(chunks, 20)) * 10.0 ** rng.integers(-4, 5, size=(chunks, 20))).astype(np.float32)
    ones = [Contribution(slot, ("model",), part, 1.0, [{"slot": np.array(slot)}]) for slot, part in enumerate(drawn)]
    blocks = blocks_of([Chunk(1, slot, ()) for slot in range(chunks)], workers)
    return {block.number: block_sum(block.number, [ones[one.number] for one in block.chunks]) for block in blocks}


@pytest.mark.parametrize(("chunks", "workers"), [(1, 1), (16, 4), (17, 17), (100, 7), (1000, 40), (4096, 1024)])
def test_sums_of_sums_have_the_bits_of_one_sum(chunks, workers):
    handles, calls = contributions(chunks, workers), []

    def add(some: list[Contribution]) -> Contribution:
        calls.append(len(some))
        return block_sum(some[0].chunk, some)

    sums = summed(handles, add, FAN_IN)
    assert len(sums.handles) <= FAN_IN
    assert max(calls, default=0) <= 4 * FAN_IN
    assert sorted(sums.beneath(tuple(sums.handles))) == sorted(handles)
    found, expected = (block_sum(0, [of[slot] for slot in sorted(of)]) for of in (sums.handles, handles))
    assert found.gradient.tobytes() == expected.gradient.tobytes()
    assert found[3:] == expected[3:]


def test_a_sum_that_is_missing_names_all_that_is_in_it():
    sums = summed(contributions(100, 7), lambda some: block_sum(some[0].chunk, some), 4)
    first, *others = sorted(sums.handles)
    assert len(sums.beneath((first,))) > 1
    assert not set(sums.beneath((first,))) & set(sums.beneath(others))
