"""What the soak measures with: the journal while it is written, stalls by fault, growth over the second half."""

from __future__ import annotations

import json

import pytest

from tests.soak.growth import Samples
from tests.soak.stalls import Fault, Stalls, Steps, stalls

REGULAR = [float(second) for second in range(100, 120)]


def with_gap(seconds: float) -> list[float]:
    """A step a second, and one after 109 that took longer."""
    return [time if time < 110 else time + seconds for time in REGULAR]


def test_a_stall_is_counted_from_the_fault_to_the_next_step():
    assert stalls(with_gap(4), [Fault("kill", 109.5)]) == {"kill": Stalls([4.5], [])}


def test_a_stall_that_shows_in_the_step_after_next_is_found():
    assert stalls(with_gap(4), [Fault("kill", 108.5)]) == {"kill": Stalls([5.0], [])}


@pytest.mark.parametrize(("other", "shared"), [(106.5, False), (107.5, False), (109.2, True), (113.9, True)])
def test_a_stall_with_two_faults_in_it_is_neither_s_own(other, shared):
    found = stalls(with_gap(4), [Fault("kill", 109.5), Fault("stop", other)])
    assert found["kill"] == (Stalls([], [4.5]) if shared else Stalls([4.5], []))


def test_a_fault_after_the_last_steps_has_no_stall():
    assert stalls(REGULAR, [Fault("kill", 118.5), Fault("kill", 130.0)]) == {}


def test_steps_are_read_while_they_are_written(tmp_path):
    def line(kind, step, timestamp):
        return json.dumps({"kind": kind, "step": step, "timestamp": timestamp, "metrics": {}}) + "\n"

    steps = Steps(tmp_path)
    steps.read()
    assert steps.times == []
    second = line("train", 2, 2500)
    with (tmp_path / "journal.jsonl").open("w") as journal:
        for text, expected in [(line("train", 1, 1500) + second[:9], 1), (second[9:] + line("validation", 2, 2600), 2)]:
            journal.write(text)
            journal.flush()
            steps.read()
            assert len(steps.times) == expected
    assert steps.times == [1.5, 2.5]
    assert steps.rate(1.5, 3.5) == 0.5


def test_growth_is_that_of_the_second_half():
    samples = Samples()
    samples.rows["driver"] = [
        (minute, 60.0 * minute, 100.0 if minute < 5 else 100.0 + 3 * minute, 20.0 + (minute > 7))
        for minute in range(10)
    ]
    grown = samples.growth()["driver"]
    assert grown.memory_mb_per_min == pytest.approx(3.0)
    assert grown.memory_kb_per_step == pytest.approx(3 * 1024 / 60)
    assert grown.more_mb == pytest.approx(12.0)
    assert 0 < grown.more_files < 2
