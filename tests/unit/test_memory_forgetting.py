"""What a memory forgets: the exact check 21, for a soft memory and for a hard store of keys and values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from pipeline.algorithms.mann import MANNConfig
from pipeline.nets.memory.cycle import Answered, Cycle
from pipeline.nets.memory.forgetting import FORGETTING, SlotFacts, age_of_trace
from pipeline.nets.memory.slots import SlotMemory
from pipeline.nets.memory.writing import Record

M, W, KEEP = 5, 3, 0.9


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def facts(**changes: Tensor) -> SlotFacts:
    rng = torch.Generator().manual_seed(1)
    content = torch.randn(M, W, generator=rng, dtype=torch.float64)
    age, usage, importance = row(3, 1, 4, 1, 5), row(0.3, 0.2, 0.6, 0.2, 0.7), row(2, 7, 1, 8, 1)
    return SlotFacts(content, age, usage, importance, torch.ones(M, dtype=torch.float64))._replace(**changes)


def policy(name: str):
    made = FORGETTING[name](KEEP)
    return made, made.init(np.random.default_rng(3), W)


def victim(name: str, of: SlotFacts) -> int:
    made, params = policy(name)
    chosen = made.victim(params, of)
    assert chosen.sum() == 1
    return int(chosen.argmax())


@pytest.mark.parametrize(("name", "expected"), [("decay", 1), ("lru", 4), ("importance", 2)])
def test_who_gives_way_and_the_lowest_of_equals(name, expected):
    """Weakest trace (slots 1 and 3 are equal), oldest, least important (slots 2 and 4 are equal)."""
    assert victim(name, facts()) == expected


def test_the_learned_gate_gives_up_what_it_would_keep_least_of():
    made, params = policy("gate")
    kept = made.retention(params, facts())
    assert victim("gate", facts()) == kept.argmin()
    assert ((kept > 0) & (kept < 1)).all()
    expected = torch.sigmoid(facts().content @ params["forget/weight"] + params["forget/bias"])
    assert torch.equal(kept, expected)


@pytest.mark.parametrize("name", FORGETTING)
def test_an_empty_slot_gives_way_first_and_the_lowest_of_them(name):
    assert victim(name, facts(filled=row(1, 1, 0, 1, 0))) == 2


def test_who_forgets_nothing_stores_nothing_new_once_it_is_full():
    made, params = policy("none")
    assert not made.victim(params, facts()).any()


@pytest.mark.parametrize(("name", "kept"), [("none", 1.0), ("decay", KEEP), ("lru", 1.0), ("importance", 1.0)])
def test_how_much_stays(name, kept):
    made, params = policy(name)
    assert torch.equal(made.retention(params, facts()), torch.full((M,), kept, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_after_t_steps_of_decay_a_trace_is_keep_to_the_t(steps):
    made, params = policy("decay")
    content = facts().content
    for _ in range(steps):
        content = content * made.retention(params, facts(content=content)).unsqueeze(-1)
    torch.testing.assert_close(content, KEEP**steps * facts().content, rtol=1e-13, atol=0)


def test_the_age_of_a_trace_is_the_steps_since_its_only_use():
    torch.testing.assert_close(age_of_trace(KEEP ** row(0, 1, 7, 30), KEEP), row(0, 1, 7, 30), rtol=1e-12, atol=1e-12)
    assert torch.isfinite(age_of_trace(row(0.0), KEEP)).all()


def test_on_misses_the_oldest_slot_is_evicted_and_a_hit_makes_it_young():
    """A hard store: slot 0 is used again, so the next three that are new take slots 1, 2 and 3 in turn."""
    made, params = policy("lru")
    age, filled, taken = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), []
    for event in ["miss"] * 4 + ["hit 0"] + ["miss"] * 3:
        of = SlotFacts(torch.zeros(4, W, dtype=torch.float64), age, age, age, filled)
        used = torch.eye(4, dtype=torch.float64)[0] if event == "hit 0" else made.victim(params, of)
        taken.append(int(used.argmax()))
        filled, age = torch.maximum(filled, used), (age + 1) * (1 - used)
    assert taken == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("name", FORGETTING)
def test_a_policy_can_be_vectorised(name):
    made, params = policy(name)
    several = [facts(), facts(age=row(9, 1, 1, 1, 1)), facts(filled=row(1, 0, 1, 1, 1))]
    together = SlotFacts(*(torch.stack(fact) for fact in zip(*several, strict=True)))
    for ask in (made.retention, made.victim):
        answers = vmap(lambda one, ask=ask: ask(params, one))(together)
        torch.testing.assert_close(answers, torch.stack([ask(params, one) for one in several]), rtol=0, atol=1e-15)


class Counting(Cycle[str, str, str, list[str]]):
    """Writes down which step came when."""

    def encode(self, params, x, state):
        state.append("encode")
        return "code"

    def retrieve(self, params, code, state):
        state.append("retrieve")
        return "found"

    def integrate(self, params, code, found):
        return torch.zeros(())

    def update(self, params, seen, state):
        assert seen == Answered("code", "found", torch.zeros(()))
        return "record"

    def store(self, params, seen, record, state):
        assert record == "record"
        return [*state, "store"]

    def forget(self, params, state):
        return [*state, "forget"]


def test_to_look_writes_nothing_and_a_turn_stores_and_then_forgets():
    looked: list[str] = []
    Counting().look({}, torch.zeros(()), looked)
    assert looked == ["encode", "retrieve"]
    _, after = Counting().turn({}, torch.zeros(()), [])
    assert after == ["encode", "retrieve", "store", "forget"]


@pytest.mark.parametrize("name", ["importance", "lru"])
def test_by_importance_one_slot_is_evicted_again_and_again_where_all_are_read_alike(name):
    memory = SlotMemory(MANNConfig(slots=M, width=W, forgetting=name))
    slots = memory.start(memory.init(np.random.default_rng(3)))
    found = []
    for _ in range(2 * M):
        found.append(int(slots.victim.argmax()))
        written = slots.victim.unsqueeze(0)
        record = Record(written, torch.ones(1, W).double(), torch.zeros(1, W).double(), slots.victim)
        read = torch.full((1, M), 1 / M).double()
        slots = memory.forget({}, memory.store(slots, memory.write(slots, record), record, read))
    assert found[: M - 1] == list(range(1, M)), "empty slots go first"
    last = found[M:]
    assert (len(set(last)) == 1) is (name == "importance"), last
