"""Where a memory is read: the exact checks 19 and 20 of addressing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.nets.memory.addressing import by_content, cosine, first_slot, interpolate, sharpen, shift

M, W, HEADS = 7, 9, 3


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(index: int, size: int = M) -> Tensor:
    return torch.eye(size, dtype=torch.float64)[index]


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_cosine_is_torchs_and_that_with_an_empty_slot_is_0():
    memory, key = drawn(M, W), drawn(HEADS, W, seed=2)
    memory[3] = 0
    expected = torch.cosine_similarity(key.unsqueeze(1), memory.unsqueeze(0), dim=-1)
    torch.testing.assert_close(cosine(memory, key), expected, rtol=0, atol=1e-14)
    assert not cosine(memory, key)[:, 3].any()


def test_an_empty_slot_has_a_finite_gradient():
    memory = torch.zeros(M, W, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(by_content(memory, drawn(W), 1.0)[0], memory)
    assert torch.isfinite(slope).all()
    assert slope.any()


@pytest.mark.parametrize("slots", [2, 8, 9])
def test_at_sharpness_1_no_read_weight_is_above_e_over_e_plus_n_minus_1(slots):
    """Where all other slots are at right angles to the key: 2.1% of 128 slots."""
    memory = torch.eye(slots, W, dtype=torch.float64)
    weights = by_content(memory, memory[1], 1.0)
    assert weights.max().item() == pytest.approx(math.e / (math.e + slots - 1), rel=1e-14)
    assert weights.argmax().item() == 1
    assert weights.sum().item() == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_one_hot_shift_of_a_sharp_content_weight_is_an_exact_roll(offset):
    """Check 20: gate 1 and sharpness without bound give a one-hot weight; a one-hot shift rolls it."""
    memory = drawn(M, W)
    sharp = by_content(memory, memory[M - 1], 1e4)
    assert torch.equal(sharp, one_hot(M - 1))
    gated = interpolate(sharp, drawn(M).softmax(-1), number(1.0))
    rolled = shift(gated, one_hot(offset + 1, 3))
    assert torch.equal(rolled, torch.roll(one_hot(M - 1), offset))
    torch.testing.assert_close(sharpen(rolled, number(2.0)), rolled, rtol=0, atol=1e-14)


def test_a_gate_of_0_keeps_the_weights_of_the_step_before():
    before = drawn(M).softmax(-1)
    assert torch.equal(interpolate(drawn(M, seed=2).softmax(-1), before, number(0.0)), before)


def test_a_shift_is_a_circular_convolution():
    weights, by = drawn(M).softmax(-1), drawn(3, seed=2).softmax(-1)
    expected = [sum(weights[(i - s) % M] * by[s + 1] for s in (-1, 0, 1)) for i in range(M)]
    torch.testing.assert_close(shift(weights, by), torch.stack(expected), rtol=0, atol=1e-15)


def test_sharpening_raises_to_a_power_and_has_a_slope_everywhere():
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(
        sharpen(weights, number(2.0)), torch.tensor([4, 1, 1], dtype=torch.float64) / 6, rtol=0, atol=1e-15
    )
    torch.testing.assert_close(sharpen(weights, number(1.0)), weights, rtol=0, atol=1e-15)
    start = first_slot(M, weights).requires_grad_()
    gamma = number(1.5).requires_grad_()
    slopes = torch.autograd.grad(sharpen(start, gamma)[0], (start, gamma))
    assert all(torch.isfinite(slope).all() for slope in slopes)


def test_heads_are_addressed_together_as_one_by_one():
    memory, keys, by = drawn(M, W), drawn(HEADS, W, seed=2), drawn(HEADS, 3, seed=3).softmax(-1)
    together = shift(by_content(memory, keys, 1.0), by)
    alone = [shift(by_content(memory, key, 1.0), one) for key, one in zip(keys, by, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-14)
