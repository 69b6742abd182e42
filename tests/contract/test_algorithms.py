"""Every registered algorithm keeps the contract, with every network and under every normalisation mode it takes."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.types import Family, Needs, Targets
from pipeline.testing import checks
from pipeline.testing.case import Case
from pipeline.testing.checks import name_of
from pipeline.testing.tasks import taken_by
from tests.contract.cases import Described, case_of, described, every_day, first, leading, meetings

pytestmark = pytest.mark.usefixtures("torch_threads")


ONCE = {
    checks.check_init_depends_on_the_generator_alone,
    checks.check_inputs_are_not_changed,
    checks.check_randomness_comes_from_the_ticket,
    checks.check_state_groups_are_folded_only,
    checks.check_messages_can_travel,
    checks.check_trace_ends_in_adapt,
}
"""What a check here looks at is the algorithm's own: no network and no mode has a part in it, and few kinds of task and
few variants have. ``make test-all`` tries them together."""
ONCE_A_KIND = {checks.check_predictions_fit_the_task}
"""What a check here looks at depends on the tasks too."""
ONCE_A_VARIANT = {
    checks.check_every_leaf_gets_gradient,
    checks.check_finite_differences,
    checks.check_vectorised_score_equals_the_loop,
}
"""What a check here looks at may be another thing in a variant, but networks and modes have their part in it by
themselves: ``test_nets`` takes each network under each mode, vectorised, to all of its leaves and to second
derivatives. ``make test-all`` tries them together."""


BEYOND_FLOAT64 = {
    "anml-regression-mlp-none-finite_differences": "its inner loop diverges: a derivative of 1e11 has no differences",
}
"""Cases of the full grid whose rounding is larger than what a check allows."""


def wanted(check: Any) -> frozenset[Described]:
    """The cases that a check is done with every day.

    They still show each property: each algorithm meets each kind and variant, and its family each network and mode, in
    the others, and ``test_nets`` takes each network under each mode to second derivatives.
    """
    if check in ONCE:
        return first()
    varied = leading() | {one for one in every_day() if one.changes}
    if check is checks.check_finite_differences:
        varied = {one for one in varied if one.net != "image_cells"}  # seconds each; the other search space has them
    return leading() if check in ONCE_A_KIND else varied if check in ONCE_A_VARIANT else every_day()


def pytest_generate_tests(metafunc):
    """Each case with each of its checks. Without ``make test-all`` the others are not even made: there are 8,000."""
    if metafunc.function is test_the_contract:
        every = "not grid" not in metafunc.config.option.markexpr
        found = [
            pytest.param(one, check, marks=marks_of(one, check), id=f"{one.id}-{name_of(check)}")
            for one in described()
            for check in one.checks
            if every or one in wanted(check)
        ]
        metafunc.parametrize(("case", "check"), found, indirect=["case"])


def marks_of(one: Described, check: Any) -> list[pytest.MarkDecorator]:
    reason = BEYOND_FLOAT64.get(f"{one.id}-{name_of(check)}")
    rounded = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=False)]
    return rounded if one in wanted(check) else [*rounded, pytest.mark.grid]


@pytest.fixture
def case(request, small_images) -> Case:
    return case_of(request.param, small_images)


def test_the_contract(case, check):
    check(case)


def test_every_day_each_algorithm_meets_each_kind_and_variant_and_its_family_each_network_and_mode():
    grid, daily = described(), every_day()
    assert set().union(*map(meetings, grid)) == set().union(*map(meetings, daily))
    assert leading() <= daily <= set(grid)
    assert {(one.algorithm, one.kind) for one in leading()} == {(one.algorithm, one.kind) for one in grid}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_an_algorithm_says_of_itself(name):
    algorithm = ALGORITHMS[name]
    assert issubclass(algorithm, Algorithm)
    assert dataclasses.is_dataclass(algorithm.Config)
    assert algorithm.Config.__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(algorithm.Config))
    assert isinstance(algorithm.needs, Needs)
    assert set(algorithm.needs.targets) <= set(get_args(Targets))
    assert algorithm.about.family in get_args(Family)
    assert algorithm.about.paper
    assert {one.kind for one in described() if one.algorithm == name} == set(taken_by(algorithm))
