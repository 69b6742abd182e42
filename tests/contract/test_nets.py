"""Every registered network keeps the contract under every normalisation mode."""

from __future__ import annotations

import dataclasses

import pytest

from pipeline.nets import NETS
from tests.contract.cases import PACKAGED
from tests.contract.net_checks import NET_CHECKS, net_cases

pytestmark = pytest.mark.usefixtures("torch_threads")


def cases():
    """Of large networks one mode is tried every day: modes are the same code for all networks."""
    for case in net_cases():
        waits = case.net.__name__ in ("ResNet12", "ImageCells") and case.mode != "transductive"
        yield pytest.param(case, marks=pytest.mark.grid if waits else (), id=case.id)


@pytest.mark.parametrize("check", NET_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("case", cases())
def test_the_contract(case, check):
    check(case)


@pytest.mark.parametrize("name", PACKAGED)
def test_what_a_network_says_of_itself(name):
    config = NETS[name].Config
    assert config.__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(config))
