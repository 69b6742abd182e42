"""Every registered network keeps the contract under every normalisation mode."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from pipeline.nets import NETS
from tests.contract.cases import PACKAGED
from tests.contract.net_checks import NET_CHECKS, net_cases

pytestmark = pytest.mark.usefixtures("torch_threads")


def tries():
    """Each case with each check. Every day large networks and variants are tried in one mode: modes are the same code
    for all. ResNet-12's second derivatives take seconds; ``test_resnet12`` learns with it."""
    for case, check in itertools.product(net_cases(), NET_CHECKS):
        name, word = case.net.__name__, check.__name__.removeprefix("check_")
        waits = (name in ("ResNet12", "ImageCells") or case.changes) and case.mode != "transductive"
        waits = waits or (name == "ResNet12" and "second_derivatives" in word)
        yield pytest.param(case, check, marks=pytest.mark.grid if waits else (), id=f"{case.id}-{word}")


@pytest.mark.parametrize(("case", "check"), list(tries()))
def test_the_contract(case, check):
    check(case)


@pytest.mark.parametrize("name", PACKAGED)
def test_what_a_network_says_of_itself(name):
    config = NETS[name].Config
    assert config.__dataclass_params__.frozen
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(config))
