"""How a memory's content changes: the exact checks 19 (LRUA) and 20 (erase and add)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.nets.memory.forgetting import LeastRecentlyUsed, SlotFacts, age_of_trace
from pipeline.nets.memory.writing import WRITES, Record, least_used_or_last_read, usage

M, W, HEADS, STEPS, FADE = 6, 4, 3, 12, 0.95


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def record(erase: float = 0.5, victim: int = 2) -> Record:
    weights, values = drawn(HEADS, M, seed=2).softmax(-1), drawn(HEADS, W, seed=3)
    return Record(weights, values, torch.full_like(values, erase), torch.eye(M, dtype=torch.float64)[victim])


def test_outer_adds_the_outer_product_of_each_head():
    memory, given = drawn(M, W), record()
    added = sum(torch.outer(w, v) for w, v in zip(given.weights, given.values, strict=True))
    torch.testing.assert_close(WRITES["outer"].change(memory, given), memory + added, rtol=0, atol=1e-15)


def test_lrua_empties_the_victim_before_it_adds():
    memory, given = drawn(M, W), record(victim=2)
    empty = memory.clone()
    empty[2] = 0
    expected = WRITES["outer"].change(empty, given)
    torch.testing.assert_close(WRITES["lrua"].change(memory, given), expected, rtol=0, atol=1e-15)


def test_lrua_without_a_victim_is_outer():
    given = record()._replace(victim=torch.zeros(M, dtype=torch.float64))
    assert torch.equal(WRITES["lrua"].change(drawn(M, W), given), WRITES["outer"].change(drawn(M, W), given))


def test_ntm_that_erases_nothing_is_outer():
    assert torch.equal(WRITES["ntm"].change(drawn(M, W), record(0.0)), WRITES["outer"].change(drawn(M, W), record()))


def test_ntm_that_erases_all_of_a_row_and_adds_nothing_clears_it():
    given = record(1.0)
    at_4 = given._replace(weights=torch.eye(M, dtype=torch.float64)[[4, 4, 4]], values=0 * given.values)
    expected = drawn(M, W)
    expected[4] = 0
    assert torch.equal(WRITES["ntm"].change(drawn(M, W), at_4), expected)


def test_ntm_erases_and_then_adds():
    memory, given = drawn(M, W), record(0.3)
    for w, e in zip(given.weights, given.erase, strict=True):
        memory = memory * (1 - torch.outer(w, e))
    expected = WRITES["outer"].change(memory, given)
    torch.testing.assert_close(WRITES["ntm"].change(drawn(M, W), given), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_a_gate_of_0_writes_to_the_least_used_slot_and_one_of_1_to_where_was_read(gate):
    read, least = drawn(HEADS, M).softmax(-1), torch.eye(M, dtype=torch.float64)[5]
    weights = least_used_or_last_read(torch.full((HEADS, 1), gate, dtype=torch.float64), read, least)
    assert torch.equal(weights, read if gate else least.expand(HEADS, M))


def test_usage_is_the_sum_of_all_that_was_read_and_written_faded():
    """Check 19: w^u_t = Σ_s γ^(t-s) (w^r_s + w^w_s)."""
    reads, writes = (drawn(STEPS, HEADS, M, seed=seed).softmax(-1) for seed in (2, 3))
    trace = torch.zeros(M, dtype=torch.float64)
    for read, written in zip(reads, writes, strict=True):
        trace = usage(trace, read, written, FADE)
    faded = torch.tensor([FADE ** (STEPS - 1 - s) for s in range(STEPS)], dtype=torch.float64)
    closed = torch.einsum("s,shm->m", faded, reads + writes)
    torch.testing.assert_close(trace, closed, rtol=0, atol=1e-14)


def test_the_least_used_slot_is_the_one_whose_trace_is_oldest():
    trace = drawn(M).softmax(-1)
    facts = SlotFacts(drawn(M, W), age_of_trace(trace, FADE), trace, trace, torch.ones(M, dtype=torch.float64))
    assert LeastRecentlyUsed().victim({}, facts).argmax() == trace.argmin()


def test_only_rules_that_erase_look_at_erase():
    for name, rule in WRITES.items():
        one, other = (rule.change(drawn(M, W), record(erase)) for erase in (0.2, 0.8))
        assert torch.equal(one, other) != rule.erases, name
