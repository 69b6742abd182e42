"""Memory-gated LSTM: all gates of an LSTM see what it read from an external memory at this very step.

A design of this project's source articles, of no paper:
i, f, o = σ(W x + U h + V m), c̃ = tanh(W_c x + U_c h + V_c m), where m = read(M, k) and k is made of x and the last h.
The strength of a read is made of them too, as MANN's ``strength: learned`` is of its controller's h: with a strength of
1, no read of 128 slots could have more than 5.5% of its weight on one of them.

Shapes: M slots, W width of a slot, H hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from pipeline.core.bounds import Count, Width
from pipeline.core.effects import OnlyWith
from pipeline.core.types import About, Params
from pipeline.families.memory import MemoryBased, ReadingConfig
from pipeline.nets.cells import LSTM
from pipeline.nets.memory.addressing import by_content, first_slot, strength
from pipeline.nets.memory.cycle import Answered
from pipeline.nets.memory.forgetting import ForgettingName
from pipeline.nets.memory.reader import MemoryReader
from pipeline.nets.memory.slots import SlotMemory, Slots
from pipeline.nets.memory.writing import Record, WriteName, least_used_or_last_read
from pipeline.nets.net import fan_in_normal


@dataclass(frozen=True)
class MemoryGatedConfig(ReadingConfig):
    """Sizes and rules as MANN's, whose row this one stands beside.

    Attributes:
        hidden: Width of the controller.
        slots: Slots of the memory.
        width: Width of a slot.
        write: How the content changes.
        forgetting: Which slot is evicted when a new entry needs one.
        fade: γ of the fading trace of use, by which the least used slot is found.
        keep: The share of the content that stays at each step under ``forgetting: decay``.
        previous: What of the example before stands beside an example of a sequence: it with its label, or the label
            alone, as published.
    """

    hidden: Width = 200
    slots: Annotated[Count, Ge(2)] = 128
    width: Width = 40
    write: WriteName = "lrua"
    forgetting: ForgettingName = "lru"
    fade: Annotated[float, Gt(0), Lt(1), OnlyWith("forgetting", "lru", "decay")] = 0.95
    keep: Annotated[float, Gt(0), Le(1), OnlyWith("forgetting", "decay")] = 0.95


class Asked(NamedTuple):
    """The share of x in the gates, [4 H], the key [W] with its strength [1], and the state of the cell before."""

    gates: Tensor
    key: Tensor
    strength: Tensor
    cell: Params


class Found(NamedTuple):
    """Where was read, [1, M], and what, m [W]."""

    weights: Tensor
    value: Tensor


class State(NamedTuple):
    """``read`` [1, M] is where was read the step before."""

    cell: Params
    read: Tensor
    slots: Slots


class GatedByMemory(MemoryReader[Asked, Found, Record, State]):
    """Answers with [h, c], of which h is shown; what it writes is a function of h."""

    def __init__(self, config: MemoryGatedConfig, inputs: int) -> None:
        self.config, self.memory = config, SlotMemory(config)
        self.cell = LSTM("cell", inputs, config.hidden)
        self.width = config.hidden
        self.parts = [config.width, 1, config.width if self.memory.rule.erases else 0]

    def init(self, rng: np.random.Generator) -> Params:
        hidden, width, inputs = self.config.hidden, self.config.width, self.cell.inputs
        bound, written, asked = 1 / math.sqrt(hidden), sum(self.parts), width + 1
        return (
            self.cell.init(rng)
            | {
                "cell/read": torch.from_numpy(rng.uniform(-bound, bound, (self.cell.gates * hidden, width))),
                "key/input": fan_in_normal(rng, (asked, inputs), inputs, 1.0),
                "key/recurrent": fan_in_normal(rng, (asked, hidden), hidden, 1.0),
                "key/bias": torch.zeros(asked),
                "write/weight": fan_in_normal(rng, (written, hidden), hidden, 1.0),
                "write/bias": torch.zeros(written),
            }
            | self.memory.init(rng)
        )

    def start(self, params: Params) -> State:
        slots = self.memory.start(params)
        first = first_slot(self.config.slots, slots.content)
        return State(self.cell.start(params["write/weight"][0]), first.unsqueeze(0), slots)

    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        keys = inputs_TI @ params["key/input"].T + params["key/bias"]
        return torch.cat([self.cell.see(params, inputs_TI), keys], -1)

    def encode(self, params: Params, x: Tensor, state: State) -> Asked:
        gates, seen = x.split([self.cell.gates * self.config.hidden, self.config.width + 1])
        key, sharpness = (seen + state.cell["h"] @ params["key/recurrent"].T).split([self.config.width, 1])
        return Asked(gates, torch.tanh(key), strength(sharpness), state.cell)

    def retrieve(self, params: Params, code: Asked, state: State) -> Found:
        weights = by_content(state.slots.content, code.key.unsqueeze(0), code.strength)
        return Found(weights, (weights @ state.slots.content).squeeze(0))

    def integrate(self, params: Params, code: Asked, found: Found) -> Tensor:
        cell = self.cell.step(params, code.gates + found.value @ params["cell/read"].T, code.cell)
        return torch.cat([cell["h"], cell["c"]])

    def update(self, params: Params, seen: Answered[Asked, Found], state: State) -> Record:
        h = seen.answer[: self.width]
        asked = (h @ params["write/weight"].T + params["write/bias"]).unsqueeze(0)
        value, gate, erase = asked.split(self.parts, -1)
        weights = least_used_or_last_read(torch.sigmoid(gate), state.read, state.slots.victim)
        return Record(weights, torch.tanh(value), torch.sigmoid(erase), state.slots.victim)

    def store(self, params: Params, seen: Answered[Asked, Found], record: Record, state: State) -> State:
        h, c = seen.answer.chunk(2)
        content, read = self.memory.write(state.slots, record), seen.found.weights
        return State({"h": h, "c": c}, read, self.memory.store(state.slots, content, record, read))

    def forget(self, params: Params, state: State) -> State:
        return state._replace(slots=self.memory.forget(params, state.slots))


class MemoryGated(MemoryBased):
    """An LSTM whose gates are open to a memory; the answer is a linear function of h."""

    Config: ClassVar[type[MemoryGatedConfig]] = MemoryGatedConfig
    about: ClassVar[About] = About(
        "memory", "none: this project's source articles; LRUA as in Santoro et al. 2016, arXiv 1605.06065"
    )

    def make_sequence_model(self, inputs: int) -> GatedByMemory:
        return GatedByMemory(self.config, inputs)
