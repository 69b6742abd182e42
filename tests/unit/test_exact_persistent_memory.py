"""The hard key-value memory: hits, misses, ages and what gives way, against Kaiser et al.'s rule done by hand."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.nets.memory.forgetting import FORGETTING
from pipeline.nets.memory.keyvalue import ABSENT, KeyValue, attention, empty

pytestmark = pytest.mark.usefixtures("torch_threads")

SLOTS, WIDTH, VALUES = 3, 2, 2
EXACT = {"rtol": 0.0, "atol": 1e-12}
EAST, NORTH, WEST, SOUTH = ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0])


class Labelled(KeyValue):
    """A hit is the right label; the answer is the value of the nearest."""

    def right(self, code, nearest, value):
        return (code.value == value).all()

    def integrate(self, params, code, found):
        return found.values[found.cosine.argmax(-1)]


def memory(forgetting: str = "lru", keep: float = 0.5) -> Labelled:
    return Labelled(FORGETTING[forgetting](keep))


def nothing() -> dict[str, Tensor]:
    return empty(SLOTS, WIDTH, VALUES, torch.zeros(0, dtype=torch.float64))


def shown(vector: list[float], label: int) -> Tensor:
    return torch.cat([torch.tensor(vector, dtype=torch.float64), torch.eye(VALUES, dtype=torch.float64)[label]])


def written(*rows: Tensor, forgetting: str = "lru", keep: float = 0.5) -> dict[str, Tensor]:
    return memory(forgetting, keep).write({}, torch.stack(rows), nothing())


def test_a_miss_is_stored_as_a_key_of_length_one():
    state = written(shown([3.0, 4.0], 1))
    assert_close(state["keys"][0], torch.tensor([0.6, 0.8], dtype=torch.float64), **EXACT)
    assert state["values"][0].tolist() == [0.0, 1.0]
    assert state["filled"].tolist() == [1.0, 0.0, 0.0]
    assert state["age"].tolist() == [0.0, 1.0, 1.0]


def test_a_hit_is_the_average_at_length_one_and_its_age_is_zero_again():
    """(q + K) / ‖q + K‖ with q and K at a right angle lies half way."""
    state = written(shown(EAST, 0), shown(WEST, 1), shown(NORTH, 0))
    assert_close(state["keys"][0], torch.tensor([0.5, 0.5], dtype=torch.float64).sqrt(), **EXACT)
    assert state["values"][0].tolist() == [1.0, 0.0]
    assert state["filled"].tolist() == [1.0, 1.0, 0.0]
    assert state["age"].tolist() == [0.0, 1.0, 3.0]
    assert state["uses"].tolist() == [2.0, 1.0, 0.0]


def test_what_is_near_but_has_another_label_is_a_miss():
    state = written(shown(EAST, 0), shown([1.0, 0.1], 1))
    assert state["filled"].sum() == 2
    assert state["values"][:2].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_miss_overwrites_the_oldest():
    """Slot 0 was filled first but hit since, so slot 1 is the oldest."""
    full = [shown(EAST, 0), shown(NORTH, 1), shown(WEST, 0), shown([1.0, 0.2], 0)]
    before = written(*full)
    assert before["age"].tolist() == [0.0, 2.0, 1.0]
    after = written(*full, shown(SOUTH, 1))
    assert_close(after["keys"][1], torch.tensor(SOUTH, dtype=torch.float64), **EXACT)
    assert torch.equal(after["keys"][[0, 2]], before["keys"][[0, 2]])
    assert after["age"].tolist() == [1.0, 0.0, 2.0]


def test_with_no_forgetting_a_full_memory_takes_nothing_new_but_still_averages():
    full = [shown(EAST, 0), shown(NORTH, 1), shown(WEST, 0)]
    before, missed = written(*full, forgetting="none"), written(*full, shown([0.1, -1.0], 1), forgetting="none")
    for name in ("keys", "values", "filled", "uses"):
        assert torch.equal(before[name], missed[name])
    hit = written(*full, shown([1.0, 1.0], 0), forgetting="none")
    assert not torch.equal(hit["keys"][0], before["keys"][0])


def test_by_importance_the_slot_of_fewest_uses_gives_way_and_of_equals_the_first():
    often = [shown(EAST, 0), shown(EAST, 0), shown(NORTH, 1), shown(WEST, 0)]
    state = written(*often, shown(SOUTH, 1), forgetting="importance")
    assert_close(state["keys"][1], torch.tensor(SOUTH, dtype=torch.float64), **EXACT)
    assert state["uses"].tolist() == [2.0, 1.0, 1.0]


def test_by_decay_old_uses_fade():
    """Slot 0 was used twice, long ago: 1.5 · 0.5³ is less than one use, two writes ago. By importance it would stay."""
    rows = [shown(EAST, 0), shown(EAST, 0), shown(NORTH, 1), shown(WEST, 0)]
    state = written(*rows, forgetting="decay")
    assert state["uses"].tolist() == [0.1875, 0.25, 0.5]
    assert state["victim"].tolist() == [1.0, 0.0, 0.0]


def test_eight_writes_at_once_are_eight_writes_one_after_the_other():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8, WIDTH + VALUES, generator=generator, dtype=torch.float64)
    rows[:, WIDTH:] = torch.eye(VALUES, dtype=torch.float64)[torch.arange(8) % VALUES]
    at_once = memory().write({}, rows, nothing())
    one_by_one = functools.reduce(lambda state, row: memory().write({}, row.unsqueeze(0), state), rows, nothing())
    assert all(torch.equal(at_once[name], one_by_one[name]) for name in at_once)


def test_an_empty_slot_is_like_nothing_and_gets_no_attention():
    nobody = memory().look({}, torch.ones(WIDTH, dtype=torch.float64), nothing())
    assert nobody.found.cosine.tolist() == [ABSENT] * SLOTS
    assert attention(nobody.found.cosine, torch.tensor(1.0)).tolist() == [0.0] * SLOTS
    one = memory().look({}, torch.tensor(WEST, dtype=torch.float64), written(shown(EAST, 0)))
    assert one.found.cosine.tolist() == [-1.0, ABSENT, ABSENT]
    assert attention(one.found.cosine, torch.tensor(1.0)).tolist() == [1.0, 0.0, 0.0]


def test_attention_is_a_softmax_over_what_is_stored():
    cosine = torch.tensor([0.5, ABSENT, -0.25], dtype=torch.float64)
    shares = attention(cosine, torch.tensor(4.0))
    expected = torch.tensor([2.0, -1.0], dtype=torch.float64).softmax(0)
    assert_close(shares[[0, 2]], expected, **EXACT)
    assert shares[1] == 0


@pytest.mark.parametrize("forgetting", ["lru", "none", "decay", "importance"])
def test_writes_of_many_tasks_at_once_are_those_of_each(forgetting):
    """What ``vmap`` needs: no branch on data anywhere."""
    rows = torch.randn(4, 7, WIDTH + VALUES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows[..., WIDTH:] = torch.eye(VALUES, dtype=torch.float64)[torch.arange(7) % VALUES]
    store = memory(forgetting)
    together = torch.func.vmap(lambda few: store.write({}, few, nothing()))(rows)
    for number, few in enumerate(rows):
        alone = store.write({}, few, nothing())
        for name in alone:
            assert_close(together[name][number], alone[name], **EXACT)
