"""Addressing: weights over a memory's slots by content, and the location steps of the Neural Turing Machine.

Pure functions; leading dimensions (heads) are free. Shapes: M slots, W width of a slot, S shifts.

Graves, Wayne, Danihelka: Neural Turing Machines, arXiv 1410.5401; Santoro et al., arXiv 1605.06065.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

FLOOR = 1e-3
"""The lower bound on the length of a slot or a key: an empty slot resembles no key, and its gradient stays small."""

SHARP = 10.0
"""What a learned strength starts at: weak ones spread a read over all slots, so that nothing is bound to anything."""

SMALLEST = 1e-16
"""The lower bound on a weight that is raised to a power: the slope of 0^gamma is unbounded."""

SHIFTS = 3
"""A head of the Neural Turing Machine moves by -1, 0 or 1 slots."""


class Head(NamedTuple):
    """The outputs of a head of the Neural Turing Machine: ``key`` [..., W], ``by`` [..., S], the others [..., 1]."""

    key: Tensor
    strength: Tensor
    gate: Tensor
    by: Tensor
    gamma: Tensor

    @staticmethod
    def numbers(width: int) -> int:
        """How many numbers a head needs."""
        return width + SHIFTS + 3

    @classmethod
    def of(cls, asked: Tensor, width: int) -> Head:
        """From real numbers: strengths become positive, gates lie in [0, 1], shifts sum to 1, and gamma is above 1."""
        key, strength, gate, by, gamma = asked.split([width, 1, 1, SHIFTS, 1], -1)
        return cls(torch.tanh(key), softplus(strength), torch.sigmoid(gate), torch.softmax(by, -1), 1 + softplus(gamma))

    def locate(self, memory_MW: Tensor, previous_M: Tensor) -> Tensor:
        """The weights over slots: by content, then gated, shifted and sharpened."""
        content_M = by_content(memory_MW, self.key, self.strength)
        return sharpen(shift(interpolate(content_M, previous_M, self.gate), self.by), self.gamma)


def cosine(memory_MW: Tensor, key: Tensor) -> Tensor:
    """The cosine of each key [..., W] with each slot: [..., M]; exact for both longer than ``FLOOR``."""
    # The products are scaled, not the memory: M numbers instead of M × W.
    return (key @ memory_MW.mT) * _inverse_length(key) * _inverse_length(memory_MW).squeeze(-1)


def by_content(memory_MW: Tensor, key: Tensor, sharpness: Tensor | float) -> Tensor:
    """Softmax over slots of ``sharpness`` [..., 1] times the cosine.

    With sharpness 1 no weight is above e / (e + (M - 1) / e), which is 5.5% of 128 slots; where all but one are at
    right angles to the key, it is e / (e + M - 1), which is 2.1%. A default would hide this.
    """
    return torch.softmax(sharpness * cosine(memory_MW, key), -1)


def strength(asked: Tensor) -> Tensor:
    """A learned strength from a real number: positive, unbounded above, and about ``SHARP`` at 0."""
    return softplus(SHARP + asked)


def interpolate(content_M: Tensor, previous_M: Tensor, gate: Tensor) -> Tensor:
    """A share ``gate`` [..., 1] of the content weights, and the remaining share of the previous step's weights."""
    return gate * content_M + (1 - gate) * previous_M


def shift(weights_M: Tensor, by_S: Tensor) -> Tensor:
    """Circular convolution: ``by_S`` are shares of the shifts -(S // 2) … S // 2, where +1 moves to the next slot."""
    reach = by_S.shape[-1] // 2
    moved = [torch.roll(weights_M, offset, -1) for offset in range(-reach, reach + 1)]
    return (torch.stack(moved, -1) * by_S.unsqueeze(-2)).sum(-1)


def sharpen(weights_M: Tensor, gamma: Tensor) -> Tensor:
    """Weights to the power ``gamma`` [..., 1] >= 1, summing to 1 again."""
    powers = weights_M.clamp_min(SMALLEST) ** gamma
    return powers / powers.sum(-1, keepdim=True)


def first_slot(slots: int, like: Tensor) -> Tensor:
    """The one-hot weights [M] with which an episode begins."""
    return (torch.arange(slots, device=like.device) == 0).to(like.dtype)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., W] at length 1; those shorter than ``FLOOR`` stay shorter than 1."""
    return vectors * _inverse_length(vectors)


def _inverse_length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(-1, keepdim=True).clamp_min(FLOOR**2).rsqrt()
