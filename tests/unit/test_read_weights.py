"""A read of each packaged recipe's memory can lie on one slot, however many slots there are."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from pipeline import config, recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.config import plain
from pipeline.core.losses import cross_entropy
from pipeline.core.types import Params
from pipeline.families.memory import MemoryBased, SequenceModel
from pipeline.nets.memory.reader import MemoryReader
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

INPUTS, OUTPUTS = 3, 2
CLEAR = 0.9
STEPS, RATE = 500, 0.02


def sequence_model_of(algorithm: str, settings: object) -> SequenceModel:
    net = MLP(MLP.Config(hidden=()), (INPUTS,), OUTPUTS, normalised=False)
    return ALGORITHMS[algorithm](settings, NormalisedNet(net, "none", (INPUTS,)), cross_entropy).sequence_model


@functools.cache
def readers() -> dict[str, MemoryReader]:
    """Of each packaged recipe that reads a memory of slots, by the recipe's name."""
    found = {}
    for name in recipes.names():
        section = config.load(name).algorithm
        kind = ALGORITHMS[section.name]
        if issubclass(kind, MemoryBased):
            reader = sequence_model_of(section.name, plain(section, kind.Config))
            if isinstance(reader, MemoryReader):
                found[name] = reader
    return found


NAMES = (
    "omniglot_mann",
    "omniglot_mann_5w1s",
    "omniglot_memorygated_5w1s",
    "omniglot_ntm_5w1s",
    "omniglot_sets_mann",
    "omniglot_sets_ntm",
    "sinusoid_mann",
)


def clearest(reader: MemoryReader, steps: int = STEPS) -> float:
    """The largest weight that every head of a reader can learn to read one slot with, all others being empty."""
    rng = np.random.default_rng(1)
    params: Params = {name: leaf.float().requires_grad_() for name, leaf in reader.init(rng).items()}
    x = torch.from_numpy(rng.normal(size=(1, 2 * INPUTS + OUTPUTS))).float()
    state = reader.start({name: leaf.detach() for name, leaf in params.items()})
    content = torch.zeros_like(state.slots.content)
    content[1] = torch.from_numpy(rng.normal(size=content.shape[1])).float()
    state = state._replace(slots=state.slots._replace(content=content))
    optimizer = torch.optim.Adam(list(params.values()), RATE)
    weight = torch.zeros(1)
    for _ in range(steps):
        (seen,) = reader.see(params, x)
        weight = reader.look(params, seen, state).found.weights[:, 1].amin()
        if weight > CLEAR:
            break
        optimizer.zero_grad()
        (-weight.log()).backward()
        optimizer.step()
    return weight.item()


def test_the_recipes_of_memories_are_these():
    assert set(readers()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_read_weight_can_reach_nine_tenths_with_the_slots_of_the_recipe(name):
    assert clearest(readers()[name]) > CLEAR


def test_without_a_strength_it_cannot():
    settings = ALGORITHMS["mann"].Config(slots=16, reads=1, strength="none")
    assert clearest(sequence_model_of("mann", settings), steps=50) < 0.34
