"""A hard memory of keys and values: input like a stored key is averaged into it, other input takes a slot.

The rule is that of Kaiser, Nachum, Roy, Bengio: Learning to Remember Rare Events, arXiv 1703.03129: keys of length 1,
the nearest by cosine; where it is right (a hit) it becomes the average, at length 1 again, and its age 0; else (a miss)
another slot is overwritten. Which one is the forgetting policy's to say: under ``lru`` it is the oldest, as published.
Theirs adds noise to the ages so that parallel workers choose different slots; here one writes after the other, without.

The state is a dict of tensors, so that it can be a group of theta. Shapes: M slots, W width of a key, V of a value.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.memory.addressing import cosine, first_slot, unit
from pipeline.nets.memory.cycle import Answered, Cycle
from pipeline.nets.memory.forgetting import Policy, SlotFacts

ABSENT = -2.0
"""The cosine of an empty slot: below every real one."""


NEVER = -1e4
"""A logit whose softmax is 0 in any dtype."""


class Code(NamedTuple):
    """An input: its vector [..., W], the vector as a key of length 1, and its value [..., V]."""

    vector: Tensor
    key: Tensor
    value: Tensor


class Found(NamedTuple):
    """Cosines [..., M] (``ABSENT`` where nothing is stored), and the values [M, V] of all slots."""

    cosine: Tensor
    values: Tensor


class Entry(NamedTuple):
    """A record: ``where`` is one-hot [M], or all zeros where no slot is evicted; ``hit`` is 1 on a hit."""

    where: Tensor
    hit: Tensor
    key: Tensor
    value: Tensor


class KeyValue(Cycle[Code, Found, Entry, Params]):
    """``x`` is a vector [W] followed by its value [V]; a lookup leaves the value out."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @abstractmethod
    def right(self, code: Code, nearest: Tensor, value: Tensor) -> Tensor:
        """Whether the nearest slot, with this cosine [] and this value [V], matches the input: bool []."""

    def encode(self, params: Params, x: Tensor, state: Params) -> Code:
        width = state["keys"].shape[-1]
        return Code(x[..., :width], unit(x[..., :width]), x[..., width:])

    def retrieve(self, params: Params, code: Code, state: Params) -> Found:
        like = cosine(state["keys"], code.key)
        return Found(torch.where(state["filled"] > 0, like, ABSENT), state["values"])

    def update(self, params: Params, seen: Answered[Code, Found], state: Params) -> Entry:
        code, found = seen.code, seen.found
        at = found.cosine.argmax(-1, keepdim=True)
        nearest = (torch.arange(found.cosine.shape[-1], device=at.device) == at).to(code.key.dtype)
        key, value = nearest @ state["keys"], nearest @ state["values"]
        hit = self.right(code, found.cosine.amax(-1), value)
        return Entry(
            torch.where(hit, nearest, state["victim"]),
            hit.to(code.key.dtype),
            torch.where(hit, unit(code.key + key), code.key),
            torch.where(hit, (code.value + value) / 2, code.value),
        )

    def store(self, params: Params, seen: Answered[Code, Found], record: Entry, state: Params) -> Params:
        here = record.where > 0
        return {
            "keys": torch.where(here.unsqueeze(-1), record.key, state["keys"]),
            "values": torch.where(here.unsqueeze(-1), record.value, state["values"]),
            "age": torch.where(here, 0.0, state["age"] + 1),
            "uses": torch.where(here, record.hit * state["uses"] + 1, state["uses"]),
            "filled": torch.where(here, 1.0, state["filled"]),
            "victim": state["victim"],
        }

    def forget(self, params: Params, state: Params) -> Params:
        """The content is unchanged: the trace of use fades, and the slot to evict next is chosen."""
        facts = SlotFacts(state["keys"], state["age"], state["uses"], state["uses"], state["filled"])
        uses = state["uses"] * self.policy.retention(params, facts)
        facts = facts._replace(usage=uses, importance=uses)
        return state | {"uses": uses, "victim": self.policy.victim(params, facts)}

    def write(self, params: Params, rows: Tensor, state: Params) -> Params:
        """The state after writing all rows [N, W + V] in order."""
        for row in rows:
            _, state = self.turn(params, row, state)
        return state


def empty(slots: int, width: int, value_width: int, like: Tensor) -> Params:
    """The empty state, with the dtype and device of ``like``."""
    zeros = like.new_zeros(slots)
    return {
        "keys": like.new_zeros(slots, width),
        "values": like.new_zeros(slots, value_width),
        "age": zeros,
        "uses": zeros,
        "filled": zeros,
        "victim": first_slot(slots, like),
    }


def attention(cosine: Tensor, sharpness: Tensor) -> Tensor:
    """Softmax [..., M] of ``sharpness`` times the cosine, over the slots that hold something; all 0 where none does."""
    filled = cosine > ABSENT
    shares = torch.softmax(torch.where(filled, sharpness * cosine, NEVER), -1)
    return shares * filled
