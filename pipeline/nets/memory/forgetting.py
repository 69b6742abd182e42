"""Forgetting: how much of each slot is retained at a step, and which slot is evicted for new content.

    none        everything is retained; once all slots are filled, nothing new is stored
    decay       a share ``keep`` of everything is retained at each step; the slot with the weakest use is evicted
    lru         the least recently used slot is evicted
    importance  the least important slot is evicted
    gate        a learned share of each slot is retained, by its content; the slot with the smallest share is evicted

Importance is a sum over time, without an age. A slot that was just written has been read least. It is evicted next,
unless one step reads it more than the least important other slot was read in total. The newest slot is nearly always
evicted and old ones stay, so the policy is close to ``none``. This is least-frequent use, and the reason why ``lru`` is
the default.

Empty slots are evicted before all others. Ties are broken by the lowest index. All functions are pure and can be
vectorised. A soft memory multiplies its content by ``retention`` at each step and writes to ``victim``; a hard store
of keys and values overwrites ``victim`` on a miss. Shapes: M slots, W width of a slot.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params

ForgettingName = Literal["none", "decay", "lru", "importance", "gate"]

OPEN = 5.0
"""The learned gate's first bias: σ(5) = 0.993 stays of a slot at each step, 70% of it over 50."""


class SlotFacts(NamedTuple):
    """The bookkeeping of the slots.

    ``content`` [M, W] is what a slot holds (a store's key); ``age`` [M] the steps since its last use; ``usage`` [M] a
    fading trace of use; ``importance`` [M] its contribution so far; ``filled`` [M] is 1 where something was stored.
    """

    content: Tensor
    age: Tensor
    usage: Tensor
    importance: Tensor
    filled: Tensor


class Policy(ABC):
    """``keep`` is the share of a slot that is retained at each step, for the policies that forget by time."""

    fades: ClassVar[bool] = False
    """Whether a policy retains less than all of a slot; otherwise ``retention`` need not be called."""

    def __init__(self, keep: float = 0.95) -> None:
        self.keep = keep

    def init(self, rng: np.random.Generator, width: int) -> Params:
        """Learned leaves, for slots of ``width`` numbers. Default: none."""
        return {}

    def retention(self, params: Params, facts: SlotFacts) -> Tensor:
        """The share of each slot that is retained, [M] in [0, 1]. Default: all."""
        return torch.ones_like(facts.usage)

    def victim(self, params: Params, facts: SlotFacts, count: int = 1) -> Tensor:
        """[M]: 1 at the ``count`` evicted slots, one by default; all zeros where none is."""
        return _lowest(self.worth(params, facts), facts.filled, count)

    @abstractmethod
    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        """The worth of filled slots [M]: the slot with the smallest worth is evicted."""


class Nothing(Policy):
    def victim(self, params: Params, facts: SlotFacts, count: int = 1) -> Tensor:
        return super().victim(params, facts, count) * (1 - facts.filled)

    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        return facts.filled


class Decay(Policy):
    fades = True

    def retention(self, params: Params, facts: SlotFacts) -> Tensor:
        return torch.full_like(facts.usage, self.keep)

    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        return facts.usage


class LeastRecentlyUsed(Policy):
    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        return -facts.age


class LeastImportant(Policy):
    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        return facts.importance


class LearnedGate(Policy):
    """σ(weight · content + bias), computed for each slot."""

    fades = True

    def init(self, rng: np.random.Generator, width: int) -> Params:
        weight = torch.from_numpy(rng.normal(0.0, 1 / math.sqrt(width), width))
        return {"forget/weight": weight, "forget/bias": torch.full((), OPEN, dtype=torch.float64)}

    def retention(self, params: Params, facts: SlotFacts) -> Tensor:
        return torch.sigmoid(facts.content @ params["forget/weight"] + params["forget/bias"])

    def worth(self, params: Params, facts: SlotFacts) -> Tensor:
        return self.retention(params, facts)


FORGETTING: dict[ForgettingName, type[Policy]] = {
    "none": Nothing,
    "decay": Decay,
    "lru": LeastRecentlyUsed,
    "importance": LeastImportant,
    "gate": LearnedGate,
}


def age_of_trace(usage_M: Tensor, fade: float) -> Tensor:
    """Steps since the last use, of a trace that is 1 at a use and fades by ``fade`` a step: log usage / log fade."""
    tiny = torch.finfo(usage_M.dtype).tiny
    return usage_M.detach().clamp_min(tiny).log() / math.log(fade)


def _lowest(worth_M: Tensor, filled_M: Tensor, count: int) -> Tensor:
    # ``where`` instead of arithmetic: an empty slot is evicted first whatever its worth; ties go to the lowest index.
    ranked = torch.where(filled_M > 0, worth_M.detach(), -math.inf)
    slots = torch.arange(ranked.shape[-1], device=ranked.device)
    if count == 1:
        return (slots == ranked.argmin(-1, keepdim=True)).to(worth_M.dtype)
    lowest = ranked.argsort(dim=-1, stable=True)[..., :count]
    return (slots == lowest.unsqueeze(-1)).any(-2).to(worth_M.dtype)
