"""Runs end where they used to: to four digits anywhere, to the bit where this machine's numerics are on record."""

from __future__ import annotations

import pytest

from tests.golden.rewrite import updated
from tests.golden.trajectories import NAMES, Trajectory, fingerprint, recorded, trajectory

pytestmark = pytest.mark.usefixtures("torch_threads")

REWRITE = "if the change of numbers was meant: python -m tests.golden.rewrite"


def test_the_record_holds_these_recipes():
    assert tuple(recorded()) == NAMES, REWRITE


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_end_where_they_used_to(name, small_images, tmp_path):
    before, now = recorded()[name], trajectory(name, small_images, tmp_path)
    assert now.loss == pytest.approx(before["loss"], rel=1e-4), REWRITE
    assert now.norm == pytest.approx(before["norm"], rel=1e-4), REWRITE
    on_record = before["theta_sha256"].get(fingerprint(name, small_images))
    assert on_record in (None, now.theta_sha256), f"theta has other bits than on record; {REWRITE}"


def test_a_rewrite_keeps_the_hashes_of_other_machines_only_where_nothing_changed():
    before = {"loss": 1.0, "norm": 2.0, "theta_sha256": {"here": "aa", "there": "bb"}}
    assert updated(before, Trajectory(1.0, 2.0, "aa"), "here") == before
    assert updated(before, Trajectory(1.0, 2.0, "cc"), "elsewhere")["theta_sha256"] == {
        "here": "aa",
        "there": "bb",
        "elsewhere": "cc",
    }
    for changed in (Trajectory(1.0, 2.0, "dd"), Trajectory(1.1, 2.0, "aa"), Trajectory(1.0, 2.1, "aa")):
        assert updated(before, changed, "here")["theta_sha256"] == {"here": changed.theta_sha256}
    assert updated({}, Trajectory(1.0, 2.0, "aa"), "here")["theta_sha256"] == {"here": "aa"}
