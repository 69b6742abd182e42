"""Memory methods against their equations, step by step in plain loops, and in the limits that are another method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.algorithms.mann import LeastUsedAccess, MANNConfig
from pipeline.algorithms.memorygated import GatedByMemory, MemoryGatedConfig
from pipeline.algorithms.memoryrnn import MemoryRNNConfig, Recurrent
from pipeline.algorithms.ntm import NTMConfig, Tape
from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.families.memory import SequenceModel

pytestmark = pytest.mark.usefixtures("torch_threads")

INPUTS, HIDDEN, SLOTS, WIDTH, STEPS, FADE = 4, 5, 3, 6, 12, 0.9
EXACT = {"rtol": 0.0, "atol": 1e-12}


def params_of(reader: SequenceModel) -> Params:
    rng = np.random.default_rng(1)
    leaves = reader.init(rng)
    return {name: leaf.double() + torch.from_numpy(rng.normal(0, 0.5, leaf.shape)) for name, leaf in leaves.items()}


def inputs() -> Tensor:
    return torch.randn(STEPS, INPUTS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def answers(reader: SequenceModel, params: Params) -> Tensor:
    state, given = reader.start(params), []
    for seen in reader.see(params, inputs()):
        answer, state = reader.read(params, seen, state)
        given.append(answer)
    return torch.stack(given)


def controller(params: Params, reads: int = 1) -> nn.LSTMCell:
    """torch's cell, which sees the input and what was read."""
    of_h, of_read = params["controller/recurrent"].split([HIDDEN, reads * WIDTH], 1)
    return cell_of(torch.cat([params["controller/input"], of_read], 1), of_h, params["controller/bias"])


def cell_of(of_input: Tensor, of_h: Tensor, bias: Tensor) -> nn.LSTMCell:
    cell = nn.LSTMCell(of_input.shape[1], HIDDEN, dtype=torch.float64)
    weights = {
        "weight_ih": of_input,
        "weight_hh": of_h,
        "bias_ih": bias,
        "bias_hh": torch.zeros(4 * HIDDEN, dtype=torch.float64),
    }
    cell.load_state_dict(weights)
    return cell.requires_grad_(False)


def cosines(memory: Tensor, key: Tensor) -> Tensor:
    return torch.stack([torch.dot(row, key) / (row.norm() * key.norm()).clamp_min(1e-30) for row in memory])


def test_mann_is_its_equations():
    """One head, three slots, twelve steps: the least used slot is emptied and taken again and again."""
    reader = LeastUsedAccess(MANNConfig(HIDDEN, SLOTS, WIDTH, reads=1, fade=FADE), INPUTS)
    params = params_of(reader)
    cell, memory = controller(params), params["memory/start"].clone()
    h, c, read = (torch.zeros(1, size, dtype=torch.float64) for size in (HIDDEN, HIDDEN, WIDTH))
    w_read = used = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    expected, taken = [], []
    for t, x in enumerate(inputs()):
        h, c = cell(torch.cat([x.unsqueeze(0), read], 1), (h, c))
        asked = (h @ params["interface/weight"].T + params["interface/bias"])[0]
        key, gate = torch.tanh(asked[:WIDTH]), torch.sigmoid(asked[WIDTH])
        read = (torch.softmax(cosines(memory, key), 0) @ memory).unsqueeze(0)
        expected.append(torch.cat([h[0], read[0]]))
        least = t + 1 if t + 1 < SLOTS else int(used.argmin())  # an empty slot goes first
        memory[least] = 0
        w_write = gate * w_read + (1 - gate) * torch.eye(SLOTS, dtype=torch.float64)[least]
        memory = memory + torch.outer(w_write, key)
        w_read = torch.softmax(cosines(memory, key), 0)
        used = FADE * used + w_read + w_write
        taken.append(least)
    assert_close(answers(reader, params), torch.stack(expected), **EXACT)
    assert len(set(taken[SLOTS:])) > 1, "several slots should have been taken anew"


@pytest.mark.parametrize("write_to", ["one", "several", "softmax"])
def test_mann_with_two_heads_is_its_equations(write_to):
    """Both write to the one slot that is evicted, or to the two least used as published, or where the softmax says."""
    slots, heads = 5, 2
    reader = LeastUsedAccess(MANNConfig(HIDDEN, slots, WIDTH, heads, fade=FADE, write_to=write_to), INPUTS)
    params = params_of(reader)
    cell, memory, one_hot = controller(params, heads), params["memory/start"].clone(), torch.eye(slots).double()
    h, c, read = (torch.zeros(1, size, dtype=torch.float64) for size in (HIDDEN, HIDDEN, heads * WIDTH))
    w_read, used, filled, evicted = one_hot[[0, 0]], one_hot[0], {0}, []
    expected = []
    for x in inputs():
        h, c = cell(torch.cat([x.unsqueeze(0), read], 1), (h, c))
        asked = (params["interface/weight"] @ h[0] + params["interface/bias"]).reshape(heads, -1)
        keys, where = torch.tanh(asked[:, :WIDTH]), asked[:, WIDTH:]
        read = torch.cat([torch.softmax(cosines(memory, key), 0) @ memory for key in keys]).unsqueeze(0)
        expected.append(torch.cat([h[0], read[0]]))
        if write_to == "softmax":
            w_write = torch.softmax(where, 1)
        else:
            ranked = sorted(range(slots), key=lambda slot: (slot in filled) * (1 + used[slot].item()))
            least = ranked[: heads if write_to == "several" else 1]
            evicted, filled = [*evicted, *least], filled | set(least)
            memory[least] = 0
            gate = torch.sigmoid(where)
            w_write = gate * w_read + (1 - gate) * one_hot[least].sum(0)
        memory = memory + sum(torch.outer(w, key) for w, key in zip(w_write, keys, strict=True))
        w_read = torch.stack([torch.softmax(cosines(memory, key), 0) for key in keys])
        used = FADE * used + w_read.sum(0) + w_write.sum(0)
    assert_close(answers(reader, params), torch.stack(expected), **EXACT)
    assert len(evicted) == STEPS * {"one": 1, "several": 2, "softmax": 0}[write_to]


def test_more_heads_than_slots_cannot_write_to_as_many():
    with pytest.raises(ConfigError, match="algorithm.reads: 4, but write_to: several writes to as many of the 3 slots"):
        LeastUsedAccess(MANNConfig(HIDDEN, SLOTS, WIDTH, reads=4, write_to="several"), INPUTS)


def test_the_ntm_is_its_equations():
    reader = Tape(NTMConfig(HIDDEN, SLOTS, WIDTH), INPUTS)
    params = params_of(reader)
    cell, memory = controller(params), params["memory/start"].clone()
    h, c, read = (torch.zeros(1, size, dtype=torch.float64) for size in (HIDDEN, HIDDEN, WIDTH))
    stands = [torch.tensor([1.0, 0, 0], dtype=torch.float64)] * 2
    expected = []

    def moved(asked: Tensor, before: Tensor) -> Tensor:
        key, beta, gate = torch.tanh(asked[:WIDTH]), asked[WIDTH].exp().log1p(), torch.sigmoid(asked[WIDTH + 1])
        by, gamma = torch.softmax(asked[WIDTH + 2 : WIDTH + 5], 0), 1 + asked[WIDTH + 5].exp().log1p()
        gated = gate * torch.softmax(beta * cosines(memory, key), 0) + (1 - gate) * before
        rolled = sum(by[shift + 1] * gated[[(i - shift) % SLOTS for i in range(SLOTS)]] for shift in (-1, 0, 1))
        return rolled**gamma / (rolled**gamma).sum()

    for x in inputs():
        h, c = cell(torch.cat([x.unsqueeze(0), read], 1), (h, c))
        asked = (h @ params["interface/weight"].T + params["interface/bias"])[0]
        head = WIDTH + 6
        stands = [moved(asked[:head], stands[0]), moved(asked[head : 2 * head], stands[1])]
        read = (stands[0] @ memory).unsqueeze(0)
        expected.append(torch.cat([h[0], read[0]]))
        add, erase = torch.tanh(asked[2 * head : 2 * head + WIDTH]), torch.sigmoid(asked[2 * head + WIDTH :])
        memory = memory * (1 - torch.outer(stands[1], erase)) + torch.outer(stands[1], add)
    assert_close(answers(reader, params), torch.stack(expected), **EXACT)


def test_a_memory_gated_lstm_whose_gates_are_closed_to_the_memory_is_an_lstm():
    gated, plain = (
        GatedByMemory(MemoryGatedConfig(HIDDEN, SLOTS, WIDTH), INPUTS),
        Recurrent(MemoryRNNConfig(hidden=HIDDEN), INPUTS),
    )
    params = params_of(gated)
    closed = params | {"cell/read": torch.zeros_like(params["cell/read"])}
    assert_close(answers(gated, closed), answers(plain, closed), **EXACT)
    assert (answers(gated, params) - answers(plain, params)).abs().max() > 1e-3


def test_the_gates_of_a_memory_gated_lstm_see_what_is_read_at_this_step():
    """i, f, o = σ(W x + U h + V m), c̃ = tanh(W_c x + U_c h + V_c m): with m as a part of the input, torch's cell."""
    reader = GatedByMemory(MemoryGatedConfig(HIDDEN, SLOTS, WIDTH), INPUTS)
    params = params_of(reader)
    of_input = torch.cat([params["cell/input"], params["cell/read"]], 1)
    cell = cell_of(of_input, params["cell/recurrent"], params["cell/bias"])
    state, h, c = reader.start(params), *(torch.zeros(1, HIDDEN, dtype=torch.float64) for _ in "hc")
    for x, seen in zip(inputs(), reader.see(params, inputs()), strict=True):
        asked = params["key/input"] @ x + params["key/recurrent"] @ h[0] + params["key/bias"]
        key, strength = torch.tanh(asked[:WIDTH]), (10 + asked[WIDTH]).exp().log1p()
        content = state.slots.content
        m = torch.softmax(strength * cosines(content, key), 0) @ content
        h, c = cell(torch.cat([x, m]).unsqueeze(0), (h, c))
        answer, state = reader.read(params, seen, state)
        assert_close(answer, h[0], **EXACT)


@pytest.mark.parametrize("forgetting", ["none", "decay", "lru", "importance", "gate"])
def test_a_policy_forgets_within_a_sequence_longer_than_the_memory(forgetting):
    """Who forgets nothing writes to no new slot once all are filled; others go on."""
    config = MANNConfig(HIDDEN, SLOTS, WIDTH, reads=1, forgetting=forgetting, keep=0.8)
    reader = LeastUsedAccess(config, INPUTS)
    params = params_of(reader)
    state, victims = reader.start(params), []
    for seen in reader.see(params, inputs()):
        victims.append(state.slots.victim.sum().item())
        before = state
        state = reader.read(params, seen, state)[1]
        assert torch.equal(state.slots.filled, torch.maximum(before.slots.filled, before.slots.victim))
    full = SLOTS - 1  # the first slot counts as used from the start
    assert victims == [1.0] * full + [float(forgetting != "none")] * (STEPS - full)
