"""The relation head keeps the contract of a network, and RelationNet with maps that of an algorithm.

The head is no encoder, so it is not in ``NETS``; and what the registries give RelationNet by default are vectors.
"""

from __future__ import annotations

import pytest

from pipeline.algorithms.relationnet import RelationNet
from pipeline.core.source import Spec
from pipeline.nets.conv4 import Conv4
from pipeline.nets.losses import cross_entropy
from pipeline.nets.model import Model
from pipeline.nets.normalisation import MODES
from pipeline.nets.relation import Relation
from tests.contract.cases import SPECS, Case, source_of_kind
from tests.contract.checks import CHECKS
from tests.contract.net_checks import NET_CHECKS, NetCase

pytestmark = pytest.mark.usefixtures("torch_threads")

PAIRS = {"maps": (16, 5, 5), "specks": (32, 1, 1), "vectors": (6,)}


@pytest.mark.parametrize("check", NET_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_contract_of_a_network(pair, mode, check):
    check(NetCase(Relation, mode, Spec("classification", PAIRS[pair], 3)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("mode", MODES)
def test_the_contract_of_an_algorithm_with_maps(mode, check, small_images):
    spec = SPECS["classification"]
    net = Conv4(Conv4.Config(16, "stride", "flatten"), spec.input_shape, None, normalised=mode != "none")
    algorithm = RelationNet(RelationNet.Config(), Model(net, mode, spec.input_shape), cross_entropy)
    assert len(algorithm.pair_shape) == 3
    check(Case(algorithm, source_of_kind(spec.kind, small_images), mode))
