"""The simulation of a step on a cluster: the real scheduler in virtual time, with the costs of Ray's messages."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from tests.bench.network import Cluster
from tests.bench.simulate import WAYS, step, table
from tests.bench.staleness import efficiency


@pytest.fixture(autouse=True)
def uncollected():
    """The scheduler's own time counts, and that of collecting the garbage of all tests is none of it."""
    gc.disable()
    yield
    gc.enable()


HUNDRED = Cluster(workers=100, size=400_000, chunk_s=0.08)


def test_blocks_and_sums_on_workers_lift_the_limit_of_the_parameter_actor():
    single, blocks, sums = (step(HUNDRED, way, *how) for way, how in WAYS.items())
    assert (single.messages, blocks.messages, sums.messages) == (1600, 400, 400)
    assert single.limit == blocks.limit == "actor's objects"
    assert single.efficiency < 0.45 < blocks.efficiency < 0.75 < sums.efficiency < 0.97
    assert table([single, blocks, sums]).splitlines()[-1].startswith("| 0.1 M | 100 | 3")


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"size": 400_000_000}, "actor's sum"),
        ({"size": 400_000_000, "link": 1.25e8}, "actor's link"),
        ({"workers": 1, "chunk_s": 1.0}, "–"),
    ],
)
def test_the_limit_is_named(changes, limit):
    assert step(replace(HUNDRED, **changes), "", True, False).limit == limit


def test_a_step_is_no_shorter_than_its_parts():
    """Theta reaches the seventh node last, and its workers compute 16 chunks after that, give or take their spread."""
    slow = replace(HUNDRED, size=40_000_000, link=1e8, spread=0.0)
    found = step(slow, "", True, True)
    assert slow.theta_there(6) == pytest.approx(6 * 0.4)
    after = sum(found.limits[name] for name in ("sums on workers", "actor's objects", "actor's link", "optimizer"))
    assert found.seconds > 2.4 + 4 * 0.08 + after  # others take over what it is late for
    assert replace(slow, tree=True).theta_there(6) == pytest.approx(3 * 0.4)


def test_staleness_fills_the_time_in_which_workers_would_wait():
    eight = Cluster(workers=8, size=400_000, chunk_s=0.005, uneven=0.2)
    assert efficiency(eight, 2, 0) < 0.55 < efficiency(eight, 2, 3)
