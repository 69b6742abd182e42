"""Writing: the rules ``outer | lrua | ntm``, and the bookkeeping of least-recent use.

Pure functions. Shapes: H heads, M slots, W width of a slot.

Santoro et al.: One-shot Learning with Memory-Augmented Neural Networks, arXiv 1605.06065 (LRUA); Graves et al.:
Neural Turing Machines, arXiv 1410.5401 (erase, then add).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

WriteName = Literal["outer", "lrua", "ntm"]


class Record(NamedTuple):
    """A record: ``weights`` [H, M] say where to write, ``values`` [H, W] what.

    ``erase`` [H, W] in [0, 1] is used by the rules that erase; ``victim`` [M] is 1 at each evicted slot, and all
    zeros where none is evicted.
    """

    weights: Tensor
    values: Tensor
    erase: Tensor
    victim: Tensor


class Write(NamedTuple):
    """A write rule: ``change(memory [M, W], record)`` returns the memory after it; ``erases`` says that it uses
    ``erase``."""

    change: Callable[[Tensor, Record], Tensor]
    erases: bool = False


def outer(memory_MW: Tensor, record: Record) -> Tensor:
    """M + Σ w vᵀ: nothing is erased."""
    return memory_MW + record.weights.mT @ record.values


def lrua(memory_MW: Tensor, record: Record) -> Tensor:
    """The victim is emptied, then M + Σ w vᵀ."""
    return outer(memory_MW * (1 - record.victim).unsqueeze(-1), record)


def ntm(memory_MW: Tensor, record: Record) -> Tensor:
    """M ∘ Π (1 - w eᵀ) over heads, then + Σ w vᵀ."""
    kept_HMW = 1 - record.weights.unsqueeze(-1) * record.erase.unsqueeze(-2)
    return outer(memory_MW * torch.prod(kept_HMW, 0), record)


WRITES: dict[WriteName, Write] = {"outer": Write(outer), "lrua": Write(lrua), "ntm": Write(ntm, erases=True)}


def least_used_or_last_read(gate_H1: Tensor, read_HM: Tensor, victim_M: Tensor) -> Tensor:
    """LRUA's write weights: w^w = σ(a) w^r of the step before + (1 - σ(a)) w^lu, with ``gate`` σ(a) for each head."""
    return gate_H1 * read_HM + (1 - gate_H1) * victim_M


def usage(before_M: Tensor, read_HM: Tensor, written_HM: Tensor, fade: float) -> Tensor:
    """LRUA's trace of use: w^u = γ w^u of the step before + w^r + w^w, summed over heads."""
    return fade * before_M + read_HM.sum(-2) + written_HM.sum(-2)
