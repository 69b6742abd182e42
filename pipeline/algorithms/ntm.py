"""The Neural Turing Machine: heads that find their slots by content and by moving, and write by erasing and adding.

Graves, Wayne, Danihelka: Neural Turing Machines, arXiv 1410.5401.

Shapes: R read heads, V write heads, M slots, W width of a slot, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from pipeline.core.bounds import Count, Heads, Width
from pipeline.core.effects import OnlyWith
from pipeline.core.types import About, Params
from pipeline.families.memory import MemoryBased, ReadingConfig
from pipeline.nets.memory.addressing import Head, first_slot
from pipeline.nets.memory.controller import Controller
from pipeline.nets.memory.cycle import Answered
from pipeline.nets.memory.forgetting import ForgettingName
from pipeline.nets.memory.reader import MemoryReader
from pipeline.nets.memory.slots import SlotMemory, Slots
from pipeline.nets.memory.writing import Record, WriteName


@dataclass(frozen=True)
class NTMConfig(ReadingConfig):
    """The controller and its memory.

    Published for the copy task: 100 hidden, 128 slots of 20, one head of each kind, ``write: ntm``, no forgetting.

    Attributes:
        hidden: Width of the controller.
        slots: Slots of the memory.
        width: Width of a slot.
        reads: Heads that read.
        writes: Heads that write.
        write: How the content changes; ``lrua`` empties the slot that ``forgetting`` names at each step.
        forgetting: Which slot is evicted when a new entry needs one.
        fade: γ of the fading trace of use, by which the least used slot is found.
        keep: The share of the content that stays at each step under ``forgetting: decay``.
        previous: What of the example before stands beside an example of a sequence: it with its label, or the label
            alone, as published.
    """

    hidden: Width = 100
    slots: Annotated[Count, Ge(3)] = 128
    width: Width = 20
    reads: Heads = 1
    writes: Heads = 1
    write: WriteName = "ntm"
    forgetting: Annotated[ForgettingName, OnlyWith("write", "lrua", of=("lru", "importance"))] = "none"
    fade: Annotated[float, Gt(0), Lt(1), OnlyWith("forgetting", "lru", "decay"), OnlyWith("write", "lrua")] = 0.95
    keep: Annotated[float, Gt(0), Le(1), OnlyWith("forgetting", "decay")] = 0.95


class Asked(NamedTuple):
    """The controller's state; its read heads; its write heads with what they add and erase, [V, W]."""

    controller: Params
    reading: Head
    writing: Head
    add: Tensor
    erase: Tensor


class Found(NamedTuple):
    """Where was read, [R, M], and what, [R · W]."""

    weights: Tensor
    values: Tensor


class State(NamedTuple):
    """``read`` [R, M] and ``written`` [V, M] are where the heads stand."""

    controller: Params
    read: Tensor
    written: Tensor
    slots: Slots


class Tape(MemoryReader[Asked, Found, Record, State]):
    """Reads, then writes, with heads that start at the first slot."""

    def __init__(self, config: NTMConfig, inputs: int) -> None:
        self.config, self.memory = config, SlotMemory(config)
        read, head = config.reads * config.width, Head.numbers(config.width)
        self.written = [head, config.width, config.width if self.memory.rule.erases else 0]
        self.asked = [config.reads * head, config.writes * sum(self.written)]
        self.controller = Controller(inputs, config.hidden, read, sum(self.asked))
        self.width = config.hidden + read

    def init(self, rng: np.random.Generator) -> Params:
        return self.controller.init(rng) | self.memory.init(rng)

    def start(self, params: Params) -> State:
        slots = self.memory.start(params)
        first = first_slot(self.config.slots, slots.content)
        read, written = first.expand(self.config.reads, -1), first.expand(self.config.writes, -1)
        return State(self.controller.start(params), read, written, slots)

    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        return self.controller.see(params, inputs_TI)

    def encode(self, params: Params, x: Tensor, state: State) -> Asked:
        width = self.config.width
        controller, asked = self.controller.step(params, x, state.controller)
        reading, writing = asked.split(self.asked)
        head, add, erase = writing.reshape(self.config.writes, -1).split(self.written, -1)
        return Asked(
            controller,
            Head.of(reading.reshape(self.config.reads, -1), width),
            Head.of(head, width),
            torch.tanh(add),
            torch.sigmoid(erase),
        )

    def retrieve(self, params: Params, code: Asked, state: State) -> Found:
        weights = code.reading.locate(state.slots.content, state.read)
        return Found(weights, (weights @ state.slots.content).flatten())

    def integrate(self, params: Params, code: Asked, found: Found) -> Tensor:
        return torch.cat([code.controller["h"], found.values])

    def update(self, params: Params, seen: Answered[Asked, Found], state: State) -> Record:
        weights = seen.code.writing.locate(state.slots.content, state.written)
        return Record(weights, seen.code.add, seen.code.erase, state.slots.victim)

    def store(self, params: Params, seen: Answered[Asked, Found], record: Record, state: State) -> State:
        controller = seen.code.controller | {"h": seen.answer}
        slots = self.memory.store(state.slots, self.memory.write(state.slots, record), record, seen.found.weights)
        return State(controller, seen.found.weights, record.weights, slots)

    def forget(self, params: Params, state: State) -> State:
        return state._replace(slots=self.memory.forget(params, state.slots))


class NTM(MemoryBased):
    """Reads the memory as the last step left it, then writes; the answer is a linear function of [h, what was read]."""

    Config: ClassVar[type[NTMConfig]] = NTMConfig
    about: ClassVar[About] = About("memory", "Graves, Wayne, Danihelka 2014, arXiv 1410.5401")

    def make_sequence_model(self, inputs: int) -> Tape:
        return Tape(self.config, inputs)
