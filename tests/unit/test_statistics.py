"""The statistics of an evaluation against cases that were computed by hand, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.core.types import Batch, Task
from pipeline.engine.answers import Tally, summary, task_answers
from pipeline.engine.statistics import BINS, Difference, calibration, design_effect, interval, paired, wilson

EXACT = {"rel": 1e-12, "abs": 1e-12}


def test_the_interval_over_tasks():
    mean, half = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(1.96 * math.sqrt(5 / 3) / 2, **EXACT)
    assert math.isnan(interval([1.0])[1])


def test_a_paired_difference_is_that_of_each_task():
    found = paired([0.9, 0.5, 0.7], [0.8, 0.5, 0.4])
    spread = math.sqrt(((0.1 - 0.4 / 3) ** 2 + (0.4 / 3) ** 2 + (0.3 - 0.4 / 3) ** 2) / 2)
    assert found == (pytest.approx(0.4 / 3, **EXACT), pytest.approx(1.96 * spread / math.sqrt(3), **EXACT), 3)
    assert not found.shown  # 0.13 ± 0.17
    assert paired([0.8, 0.5, 0.4], [0.9, 0.5, 0.7]) == (-found.mean, found.half_width, 3)


def test_pairing_shows_a_difference_that_two_intervals_do_not():
    hard = np.linspace(0.0, 1.0, 50)
    better = hard + 0.01 + 0.001 * np.cos(np.arange(50))
    assert paired(better, hard).shown
    assert interval(better)[0] - interval(hard)[0] < interval(hard)[1]


def test_a_run_beside_itself_is_not_better():
    assert paired([0.5, 0.7], [0.5, 0.7]) == Difference(0.0, 0.0, 2)
    assert not Difference(0.0, 0.0, 2).shown
    with pytest.raises(ValueError, match="broadcast"):
        paired([0.5, 0.7], [0.5, 0.7, 0.9])


def test_wilson_s_interval():
    half = 1.96 / 1.38416 * math.sqrt(0.025 + 0.009604)
    assert wilson(0.5, 10) == (pytest.approx(0.5 - half, **EXACT), pytest.approx(0.5 + half, **EXACT))
    assert wilson(1.0, 10) == pytest.approx((1 / 1.38416, 1.0), **EXACT)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.38416 / 1.38416), **EXACT)


def sums(of: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """Of each class, given its queries and right answers in each task."""
    pairs = [np.array(one) for one in of]
    return np.array([[len(n), n.sum(), r.sum(), (n * n).sum(), (n * r).sum(), (r * r).sum()] for n, r in pairs])


def test_answers_of_one_task_are_worth_less_than_independent_ones():
    # 9 and 5 of 10 right: Σ(r - 7)² · 2 = 16, of 20 · 0.7 · 0.3 = 4.2. 6 and 8 of 10: 4, of 4.2.
    first, second = ([10, 10], [9, 5]), ([10, 10], [6, 8])
    assert design_effect(sums([first])) == pytest.approx(16 / 4.2, **EXACT)
    assert design_effect(sums([first, second])) == pytest.approx(20 / 8.4, **EXACT)
    assert design_effect(sums([second])) == 1.0  # never below
    assert design_effect(sums([([10], [7]), ([5, 5], [5, 5])])) == 1.0  # nothing varies


def test_a_class_s_interval_covers_its_accuracy():
    """Few tasks of 15 queries, whose accuracy differs from task to task; answers alone would promise too much."""
    rng, tasks = np.random.default_rng(11), 5
    share = rng.uniform(0.6, 0.98, (3000, 1))
    right = rng.binomial(15, rng.beta(share * 8, (1 - share) * 8, (3000, tasks)))
    effect = design_effect(sums([([15] * tasks, one) for one in right.tolist()]))

    def covered(answers: float) -> float:
        found = [wilson(one / (15 * tasks), answers) for one in right.sum(1)]
        return float(np.mean([low <= one <= high for (low, high), one in zip(found, share[:, 0], strict=True)]))

    assert 0.94 < covered(15 * tasks / effect) < 0.97
    assert covered(15 * tasks) < 0.85


UNIFORM, QUARTER = [0.2, 0.2, 0.2, 0.2, 0.2], [0.25, 0.1875, 0.1875, 0.1875, 0.1875]
LOGITS = torch.tensor([UNIFORM, UNIFORM, QUARTER], dtype=torch.float64).log()
RIGHT = torch.tensor([0, 0, 1])
"""Two answers of confidence 0.2, an edge of a bin, both right (the first slot wins a tie); one of 0.25, wrong."""


def of_all(logits: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in summary(logits, y).items()}


def test_calibration_against_a_case_by_hand():
    told = of_all(LOGITS, RIGHT)
    found = calibration(told["bins"], told["nll"][None], told["brier"][None])
    assert found.answers == 3
    assert found.ece == pytest.approx((2 * 0.8 + 0.25) / 3, **EXACT)
    assert found.nll[0] == pytest.approx(-(2 * math.log(0.2) + math.log(0.1875)) / 3, **EXACT)
    # 0.8² + 4 · 0.2² of each of the two; 0.8125² + 0.25² + 3 · 0.1875² of the third.
    assert found.brier[0] == pytest.approx((2 * 0.8 + 0.66015625 + 0.0625 + 0.10546875) / 3, **EXACT)
    filled = {number: one for number, one in enumerate(found.bins) if one.answers}
    assert {number: one.answers for number, one in filled.items()} == {2: 2, 3: 1}
    assert (filled[2].low, filled[2].high) == (2 / 15, 3 / 15)
    assert (filled[2].confidence, filled[2].accuracy) == (pytest.approx(0.2, **EXACT), 1.0)
    assert len(found.bins) == BINS == 15


def test_the_case_by_hand_tells_wrong_rules_from_the_right_one():
    right = (2 * 0.8 + 0.25) / 3
    together = abs((1 + 1 + 0) - (0.2 + 0.2 + 0.25)) / 3  # bins closed on the left hold all three
    unweighted = (0.8 + 0.25) / 2  # a mean over bins, whatever they hold
    signed = abs(2 * 0.8 - 0.25) / 3  # gaps of unlike sign that cancel
    assert min(abs(right - wrong) for wrong in (together, unweighted, signed)) > 0.05


def test_confidences_on_each_edge_belong_to_the_lower_bin():
    """Equal logits of C slots, for which 1 / C is an edge: C = 3 and 5, and C = 1."""
    for ways, number in ((3, 4), (5, 2), (1, 14)):
        told = of_all(torch.zeros(4, ways), torch.zeros(4, dtype=torch.int64))
        assert np.flatnonzero(told["bins"][0]).tolist() == [number]


def test_a_summary_is_the_same_in_a_loop_and_vectorised_and_counts_as_the_metric_does():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((6, 20, 5), generator=generator)
    y = torch.randint(5, (6, 20), generator=generator)
    together = torch.func.vmap(summary)(logits, y)
    for task in range(6):
        alone = summary(logits[task], y[task])
        assert all(torch.equal(alone[name], together[name][task]) for name in alone)
        given, answers = alone["given"].numpy(), logits[task].argmax(-1).numpy()
        assert given.sum() == 20
        assert given.trace() == (answers == y[task].numpy()).sum()
        for slot, answered in zip(y[task].numpy(), answers, strict=True):
            given[slot, answered] -= 1
        assert not given.any()


NAMES = [f"c{number}" for number in range(7)]


def chunks(tasks: int = 10, size: int = 4) -> list[tuple[int, tuple]]:
    """Answers of tasks of three classes out of seven, in chunks."""
    generator = torch.Generator().manual_seed(9)
    answers = []
    for number in range(tasks):
        classes = tuple(torch.randperm(7, generator=generator)[:3].tolist())
        y = torch.arange(3).repeat_interleave(4)
        logits = torch.randn((12, 3), generator=generator) + 1.0 * torch.eye(3)[y]
        empty = Batch(torch.zeros(0), torch.zeros(0))
        answers += task_answers([summary(logits, y)], [Task(str(number), empty, empty, 3, classes=classes)])
    return [(first // size, tuple(answers[first : first + size])) for first in range(0, tasks, size)]


def tally(of: list[tuple[int, tuple]]) -> Tally:
    found = Tally(NAMES, tasks=10, chunk_size=4)
    for number, answers in of:
        found.add(number, answers)
    return found


def test_classes_and_confusions_are_counted():
    of, counted = chunks(), {}
    wrong: dict[tuple[str, str], int] = {}
    for _, answers in of:
        for one in answers:
            for slot, name in enumerate(NAMES[number] for number in one.classes):
                tasks, asked, right = counted.get(name, (0, 0, 0))
                counted[name] = tasks + 1, asked + 4, right + int(one.given[slot, slot])
                for other, taken in enumerate(NAMES[number] for number in one.classes):
                    if other != slot and one.given[slot, other]:
                        wrong[name, taken] = wrong.get((name, taken), 0) + int(one.given[slot, other])
    found = tally(of)
    assert {
        one.name: (one.tasks, one.queries, round(one.accuracy * one.queries)) for one in found.by_class()
    } == counted
    assert {(one.name, one.taken_for): one.times for one in found.confusions()} == wrong
    assert [one.high for one in found.by_class()] == sorted(one.high for one in found.by_class())
    assert all(0 <= one.low <= one.accuracy <= one.high <= 1 for one in found.by_class())
    times = [one.times for one in found.confusions()]
    assert times == sorted(times, reverse=True)


def test_the_order_in_which_chunks_arrive_changes_no_bit():
    of = chunks()
    assert tally(of).facts() == tally(of[::-1]).facts() == tally([of[1], of[2], of[0]]).facts()


def test_classes_without_names_have_a_calibration_alone():
    found = Tally((), tasks=10, chunk_size=4)
    for number, answers in chunks():
        found.add(number, answers)
    assert found.facts() == {"calibration": tally(chunks()).facts()["calibration"]}
