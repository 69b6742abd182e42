"""When forgetting helps: streams longer than the memory, and what of them is still known at the end, by policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.nets.memory.forgetting import FORGETTING, ForgettingName
from pipeline.nets.memory.keyvalue import KeyValue, empty

pytestmark = pytest.mark.usefixtures("torch_threads")

SLOTS, CLASSES = 8, 128
EYE = torch.eye(CLASSES, dtype=torch.float64)


class Classes(KeyValue):
    """Each class has one key, at right angles to all others."""

    def right(self, code, nearest, value):
        return nearest > 0.5

    def integrate(self, params, code, found):
        return found.cosine.amax(-1)


def known(forgetting: ForgettingName, stream: list[int], asked: list[int]) -> float:
    """The share of ``asked`` that the memory holds after the stream."""
    memory = Classes(FORGETTING[forgetting](0.95))
    rows = torch.cat([EYE[stream], torch.zeros(len(stream), 1, dtype=torch.float64)], 1)
    state = memory.write({}, rows, empty(SLOTS, CLASSES, 1, EYE))
    answers: Tensor = memory.look({}, EYE[asked], state).answer
    return (answers > 0.5).double().mean().item()


@pytest.mark.parametrize(("forgetting", "share"), [("none", 0.0), ("importance", 1 / 8), ("lru", 1.0), ("decay", 1.0)])
def test_where_the_classes_change_what_is_old_must_go(forgetting, share):
    """Eight classes, then eight others, many times each: what counts uses holds on to those that come no more."""
    old, new = list(range(8)), list(range(8, 16))
    assert known(forgetting, 6 * old + 6 * new, new) == share


@pytest.mark.parametrize(("forgetting", "share"), [("none", 1.0), ("importance", 1.0), ("lru", 0.0), ("decay", 1.0)])
def test_among_many_that_come_once_those_that_come_again_must_stay(forgetting, share):
    """Four classes come every twelve writes, eight strangers in between: by age alone the strangers push them out."""
    often = list(range(4))
    strangers = [list(range(start, start + 8)) for start in range(4, 84, 8)]
    stream = [one for few in strangers for one in (*often, *few)]
    assert known(forgetting, often + stream, often) == share


@pytest.mark.parametrize("forgetting", ["none", "importance", "lru", "decay"])
def test_where_all_fit_nothing_is_forgotten(forgetting):
    assert known(forgetting, 3 * list(range(SLOTS)), list(range(SLOTS))) == 1
