"""Theta as one vector, and tickets: what travels, and what every task is drawn from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.core.failures import InternalError
from pipeline.core.flat import Layout, sha256
from pipeline.core.seeding import Ticket, init_rng, rngs


def theta() -> dict[str, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(0)
    return {
        "model": {"b": torch.from_numpy(rng.normal(size=3)), "a": torch.from_numpy(rng.normal(size=(2, 4)))},
        "inner_lr": {"rate": torch.tensor(0.125)},
        "empty": {"none": torch.zeros(0, 5)},
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pack_and_unpack_are_inverse(dtype):
    layout = Layout.of(theta(), dtype)
    vector = layout.pack(theta())
    assert vector.dtype == dtype
    assert vector.shape == (layout.size,) == (12,)
    again = layout.unpack(vector)
    for group, leaves in theta().items():
        for name, leaf in leaves.items():
            assert torch.equal(again[group][name], leaf.to(dtype))


def test_the_layout_does_not_depend_on_the_order_of_insertion():
    backwards = {group: dict(reversed(leaves.items())) for group, leaves in reversed(theta().items())}
    one, other = Layout.of(theta(), torch.float64), Layout.of(backwards, torch.float64)
    assert one.leaves == other.leaves
    assert torch.equal(one.pack(theta()), other.pack(backwards))
    assert [(leaf.group, leaf.name) for leaf in one.leaves] == sorted((leaf.group, leaf.name) for leaf in one.leaves)


def test_groups_are_slices_of_the_vector():
    layout = Layout.of(theta(), torch.float64)
    vector = layout.pack(theta())
    assert torch.equal(vector[layout.groups["inner_lr"]], torch.tensor([0.125], dtype=torch.float64))
    expected = torch.cat([theta()["model"]["a"].flatten(), theta()["model"]["b"]])
    assert torch.equal(vector[layout.groups["model"]], expected)
    assert layout.without({"model"}) == ("empty", "inner_lr")


def test_a_group_that_is_left_out_is_zero():
    layout = Layout.of(theta(), torch.float64)
    vector = layout.pack({"inner_lr": theta()["inner_lr"]})
    assert vector.count_nonzero() == 1


@pytest.mark.parametrize(
    ("leaves", "message"),
    [
        ({"a": torch.zeros(2, 4)}, r"model/b: expected shape \(3,\), found no tensor"),
        ({"a": torch.zeros(4, 2), "b": torch.zeros(3)}, r"model/a: expected shape \(2, 4\), found shape \(4, 2\)"),
    ],
)
def test_a_leaf_that_does_not_fit_is_named(leaves, message):
    with pytest.raises(InternalError, match=message):
        Layout.of(theta(), torch.float64).pack({"model": leaves})


def test_unpacking_gives_views_and_packing_a_copy():
    layout = Layout.of(theta(), torch.float64)
    values = theta()
    vector = layout.pack(values)
    layout.unpack(vector)["model"]["b"][0] = 7.0
    assert 7.0 in vector
    assert values["model"]["b"][0] != 7.0


def test_the_hash_is_that_of_the_bits():
    vector = Layout.of(theta(), torch.float32).pack(theta())
    assert sha256(vector) == sha256(vector.clone())
    assert sha256(torch.stack([vector, vector], 1)[:, 0]) == sha256(vector)
    nudged = vector.clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(10.0))
    assert len({sha256(vector), sha256(nudged), sha256(vector.double()), sha256(vector + 0.0 * nudged)}) == 3
    assert sha256(torch.tensor([0.0])) != sha256(torch.tensor([-0.0]))


TICKETS = [
    Ticket(seed, purpose, split, step, number)
    for seed, purpose, split, step, number in itertools.product(
        (0, 1, 2**63 + 1),
        ("train", "evaluate", "serve", "init"),
        ("train", "val", "test"),
        (0, 1, 10**6),
        (0, 1, 10**6),
    )
]


def test_every_ticket_and_stream_draws_its_own_numbers():
    draws = {tuple(ticket.rng(stream).integers(2**62, size=2)) for ticket in TICKETS for stream in ("task", "noise")}
    assert len(draws) == 2 * len(TICKETS)


def test_a_ticket_draws_the_same_whatever_was_drawn_before():
    forward = [ticket.rng("task").random(3).tolist() for ticket in TICKETS]
    backward = [ticket.rng("task").random(3).tolist() for ticket in reversed(TICKETS)]
    assert forward == backward[::-1]


@pytest.mark.parametrize("stream", ["task", "noise", "step"])
def test_one_generator_after_the_other_draws_what_fresh_ones_draw(stream):
    tickets = [Ticket(7, "train", "train", 12, number) for number in (3, 0, 10**6)]

    def drawn(rng):
        return [rng.integers(10, dtype=np.uint32), *rng.random(3), rng.normal()]  # half of a draw is left over

    assert [drawn(rng) for rng in rngs(tickets, stream)] == [drawn(ticket.rng(stream)) for ticket in tickets]


def test_generators_of_two_steps_are_not_mixed():
    with pytest.raises(InternalError, match="not of one step"):
        list(rngs([Ticket(7, "train", "train", 12, 0), Ticket(7, "train", "train", 13, 1)], "task"))


def test_streams_do_not_run_into_their_neighbours():
    """A long draw of one task is not the beginning of the next one's."""
    long = Ticket(0, "train", "train", 1, 0).rng("task").integers(2**62, size=200_000)
    for number in (1, 2, 3):
        beginning = Ticket(0, "train", "train", 1, number).rng("task").integers(2**62, size=50)
        assert not np.isin(beginning, long).any()


def test_neighbouring_tickets_are_uncorrelated_and_uniform():
    draws = np.stack([Ticket(0, "train", "train", 7, number).rng("task").random(500) for number in range(40)])
    correlations = np.corrcoef(draws)[~np.eye(40, dtype=bool)]
    assert abs(correlations).max() < 5 / np.sqrt(500)
    assert abs(draws[:, 0].mean() - 0.5) < 4 * np.sqrt(1 / 12 / 40)
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / draws.size)


def test_what_a_seed_means_never_changes():
    """These numbers are in every published theta hash: a change here is a change of every run."""
    assert Ticket(7, "train", "train", 12, 3).rng("task").integers(10**6, size=4).tolist() == GOLDEN["train"]
    assert Ticket(20260, "evaluate", "test", 0, 599).rng("noise").integers(10**6, size=4).tolist() == GOLDEN["evaluate"]
    assert init_rng(7).integers(10**6, size=4).tolist() == GOLDEN["init"]


GOLDEN = {
    "train": [45678, 959638, 793730, 321954],
    "evaluate": [607668, 794354, 169990, 852024],
    "init": [848409, 914350, 928940, 80745],
}


def test_a_ticket_s_name_tells_all_but_the_seed():
    assert Ticket(7, "evaluate", "val", 12, 3).id == "evaluate/val/12/3"
