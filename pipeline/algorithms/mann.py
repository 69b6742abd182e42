"""MANN: an LSTM with an external memory that binds examples to labels.

Santoro, Bartunov, Botvinick, Wierstra, Lillicrap: One-shot Learning with Memory-Augmented Neural Networks,
arXiv 1605.06065.

By default it differs from the paper in two ways, which matter beside published numbers:

* A label comes one step late in a sequence, as published, but each step also shows the previous image with its label.
  The paper's input is the image and the label of the one before (``previous: label``). A support set that is no
  sequence is read with each label beside its example.
* All heads write what is new to one slot, the one that ``forgetting`` evicts. In the paper there are as many least used
  slots as read heads, and each head writes to all of them (``write_to: several``).

Shapes: R heads (each reads and writes), M slots, W width of a slot, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from pipeline.core.bounds import Count, Heads, Width
from pipeline.core.effects import OnlyWith
from pipeline.core.failures import ConfigError
from pipeline.core.types import About, Params
from pipeline.families.memory import MemoryBased, ReadingConfig
from pipeline.nets.memory.addressing import by_content, first_slot, strength
from pipeline.nets.memory.controller import Controller
from pipeline.nets.memory.cycle import Answered
from pipeline.nets.memory.forgetting import ForgettingName
from pipeline.nets.memory.reader import MemoryReader
from pipeline.nets.memory.slots import SlotMemory, Slots
from pipeline.nets.memory.writing import Record, WriteName, least_used_or_last_read


@dataclass(frozen=True)
class MANNConfig(ReadingConfig):
    """The controller and its memory. The defaults are the published sizes and rules but for ``write_to``.

    In the paper a head writes the key it reads by, and a read has no strength. Values that are written apart from keys
    are those of the implementation that these settings are from (T. Deleu's).

    Attributes:
        hidden: Width of the controller.
        slots: Slots of the memory.
        width: Width of a slot.
        reads: Heads; each one reads and writes.
        write: How the content changes.
        forgetting: Which slot is evicted when a new entry needs one.
        write_to: ``one`` evicted slot, which is not as published; ``several``, as many as there are heads, which is; or
            ``softmax``, the controller's own shares of all slots for each head, of which none is evicted, so that
            ``write: lrua`` is ``outer`` and only ``decay`` and ``gate`` forget.
        stores: ``keys``: a head writes the key it reads by; ``values``: a vector of its own.
        strength: ``learned`` sharpens each read.
        fade: γ of the fading trace of use, by which the least used slot is found.
        keep: The share of the content that stays at each step under ``forgetting: decay``.
        previous: What of the example before stands beside an example of a sequence: it with its label, or the label
            alone, as published.
    """

    hidden: Width = 200
    slots: Annotated[Count, Ge(2)] = 128
    width: Width = 40
    reads: Heads = 4
    write: WriteName = "lrua"
    write_to: Literal["one", "several", "softmax"] = "one"
    forgetting: ForgettingName = "lru"
    stores: Literal["keys", "values"] = "keys"
    strength: Literal["none", "learned"] = "none"
    fade: Annotated[float, Gt(0), Lt(1), OnlyWith("forgetting", "lru", "decay")] = 0.95
    keep: Annotated[float, Gt(0), Le(1), OnlyWith("forgetting", "decay")] = 0.95


class Asked(NamedTuple):
    """The controller's state, and what it asks.

    ``keys`` [R, W] to read by, their ``strength`` [R, 1], the write ``gate`` [R, 1], or where to write [R, M] under
    ``write_to: softmax``, ``values`` to write and what to ``erase`` [R, W].
    """

    controller: Params
    keys: Tensor
    strength: Tensor
    gate: Tensor
    values: Tensor
    erase: Tensor


class Found(NamedTuple):
    """Where was read, [R, M], and what, [R · W]."""

    weights: Tensor
    values: Tensor


class State(NamedTuple):
    """``read`` [R, M] is where the keys of the step before lay after its write."""

    controller: Params
    read: Tensor
    slots: Slots


class LeastUsedAccess(MemoryReader[Asked, Found, Record, State]):
    """Reads by content, writes to the least used slot or to where it read the step before.

    Published reads once, after the write, and answers with that. Here an answer is read before it, so that a query can
    be answered without a write; where the next write may go is read after it, as published.

    Raises:
        ConfigError: ``write_to: several`` with more heads than slots.
    """

    def __init__(self, config: MANNConfig, inputs: int) -> None:
        if config.write_to == "several" and config.reads > config.slots:
            raise ConfigError(
                f"algorithm.reads: {config.reads}, but write_to: several writes to as many of the {config.slots} slots;"
                f" use at most {config.slots}"
            )
        self.config, self.memory = config, SlotMemory(config, config.reads if config.write_to == "several" else 1)
        read, where = config.reads * config.width, config.slots if config.write_to == "softmax" else 1
        learned, own, erases = config.strength == "learned", config.stores == "values", self.memory.rule.erases
        self.parts = [config.width, where, int(learned), config.width * own, config.width * erases]
        self.controller = Controller(inputs, config.hidden, read, config.reads * sum(self.parts))
        self.width = config.hidden + read

    def init(self, rng: np.random.Generator) -> Params:
        return self.controller.init(rng) | self.memory.init(rng)

    def start(self, params: Params) -> State:
        slots = self.memory.start(params)
        weights = first_slot(self.config.slots, slots.content).expand(self.config.reads, -1)
        return State(self.controller.start(params), weights, slots)

    def see(self, params: Params, inputs_TI: Tensor) -> Tensor:
        return self.controller.see(params, inputs_TI)

    def encode(self, params: Params, x: Tensor, state: State) -> Asked:
        controller, asked = self.controller.step(params, x, state.controller)
        keys, gate, sharpness, values, erase = asked.reshape(self.config.reads, -1).split(self.parts, -1)
        return Asked(
            controller,
            torch.tanh(keys),
            strength(sharpness) if self.config.strength == "learned" else torch.ones_like(gate[:, :1]),
            torch.softmax(gate, -1) if self.config.write_to == "softmax" else torch.sigmoid(gate),
            torch.tanh(values if self.config.stores == "values" else keys),
            torch.sigmoid(erase),
        )

    def retrieve(self, params: Params, code: Asked, state: State) -> Found:
        weights = by_content(state.slots.content, code.keys, code.strength)
        return Found(weights, (weights @ state.slots.content).flatten())

    def integrate(self, params: Params, code: Asked, found: Found) -> Tensor:
        return torch.cat([code.controller["h"], found.values])

    def update(self, params: Params, seen: Answered[Asked, Found], state: State) -> Record:
        code, victim = seen.code, state.slots.victim
        if self.config.write_to == "softmax":
            return Record(code.gate, code.values, code.erase, torch.zeros_like(victim))
        return Record(least_used_or_last_read(code.gate, state.read, victim), code.values, code.erase, victim)

    def store(self, params: Params, seen: Answered[Asked, Found], record: Record, state: State) -> State:
        # Where its keys lie now: in what was just written, above all, so that the next step can add the label there.
        content = self.memory.write(state.slots, record)
        read = by_content(content, seen.code.keys, seen.code.strength)
        slots = self.memory.store(state.slots, content, record, read)
        return State(seen.code.controller | {"h": seen.answer}, read, slots)

    def forget(self, params: Params, state: State) -> State:
        return state._replace(slots=self.memory.forget(params, state.slots))


class MANN(MemoryBased):
    """The answer is a linear function of [h, what was read]."""

    Config: ClassVar[type[MANNConfig]] = MANNConfig
    about: ClassVar[About] = About("memory", "Santoro et al. 2016, arXiv 1605.06065")

    def make_sequence_model(self, inputs: int) -> LeastUsedAccess:
        return LeastUsedAccess(self.config, inputs)
