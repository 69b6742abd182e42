"""The slots of a memory that lives for one task: their content and the bookkeeping for a forgetting policy."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.memory.addressing import first_slot
from pipeline.nets.memory.forgetting import FORGETTING, ForgettingName, SlotFacts, age_of_trace
from pipeline.nets.memory.writing import WRITES, Record, WriteName, usage

START = 1e-6
"""The first content of an empty slot."""


class SlotConfig(Protocol):
    """Fields of a memory's config: ``slots`` of ``width`` numbers; the trace of use fades by ``fade``, content by
    ``keep``."""

    @property
    def slots(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def write(self) -> WriteName: ...
    @property
    def forgetting(self) -> ForgettingName: ...
    @property
    def fade(self) -> float: ...
    @property
    def keep(self) -> float: ...


class Slots(NamedTuple):
    """``content`` [M, W]; ``usage``, ``importance`` and ``filled`` [M]; ``victim`` [M] marks the slot evicted next."""

    content: Tensor
    usage: Tensor
    importance: Tensor
    filled: Tensor
    victim: Tensor


class SlotMemory:
    """M slots of width W under a write rule and a forgetting policy. The first content is learned (``memory/start``).

    Importance is the sum of read weights since the slot was last evicted. ``victims`` are evicted at a step.
    """

    def __init__(self, config: SlotConfig, victims: int = 1) -> None:
        self.victims = victims
        self.slots, self.width, self.fade = config.slots, config.width, config.fade
        self.rule = WRITES[config.write]
        self.policy = FORGETTING[config.forgetting](config.keep)

    def init(self, rng: np.random.Generator) -> Params:
        start = torch.full((self.slots, self.width), START, dtype=torch.float64)
        return {"memory/start": start} | self.policy.init(rng, self.width)

    def start(self, params: Params) -> Slots:
        """The state before the first write; the first slot counts as used."""
        content = params["memory/start"]
        first = first_slot(self.slots, content)
        return self._named(params, Slots(content, first, torch.zeros_like(first), first, first))

    def write(self, slots: Slots, record: Record) -> Tensor:
        """The content after the record was written, [M, W]."""
        return self.rule.change(slots.content, record)

    def store(self, slots: Slots, content: Tensor, record: Record, read_HM: Tensor) -> Slots:
        """The slots with new content, and with the bookkeeping of a read with these weights."""
        return Slots(
            content,
            # The eviction choice is not differentiable, so its inputs are detached.
            usage(slots.usage, read_HM.detach(), record.weights.detach(), self.fade),
            slots.importance * (1 - record.victim) + read_HM.detach().sum(-2),
            torch.maximum(slots.filled, record.victim),
            record.victim,
        )

    def forget(self, params: Params, slots: Slots) -> Slots:
        """The content that the policy retains, and the next victim."""
        if self.policy.fades:
            stays = self.policy.retention(params, self._facts(slots))
            slots = slots._replace(content=slots.content * stays.unsqueeze(-1))
        return self._named(params, slots)

    def _named(self, params: Params, slots: Slots) -> Slots:
        return slots._replace(victim=self.policy.victim(params, self._facts(slots), self.victims))

    def _facts(self, slots: Slots) -> SlotFacts:
        age = age_of_trace(slots.usage, self.fade)
        return SlotFacts(slots.content, age, slots.usage, slots.importance, slots.filled)
