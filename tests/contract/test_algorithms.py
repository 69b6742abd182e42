"""Every registered algorithm keeps the contract, with every network and under every normalisation mode it takes."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from pipeline.algorithms import ALGORITHMS
from pipeline.core.algorithm import Algorithm
from pipeline.core.types import Family
from tests.contract.cases import Case, case_of, described
from tests.contract.checks import CHECKS

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture
def case(request, small_images) -> Case:
    return case_of(request.param, small_images)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("case", described(), indirect=True, ids=lambda one: one.id)
def test_the_contract(case, check):
    check(case)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_an_algorithm_says_of_itself(name):
    algorithm = ALGORITHMS[name]
    assert issubclass(algorithm, Algorithm)
    assert dataclasses.is_dataclass(algorithm.Config)
    assert algorithm.Config.__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(algorithm.Config))
    assert isinstance(algorithm.head, bool)
    assert algorithm.family in get_args(Family)
    assert algorithm.paper
    assert algorithm.sends
    assert {one.kind for one in described() if one.algorithm == name} == set(algorithm.kinds)
