"""The relation head keeps the contract of a network, and RelationNet with maps that of an algorithm.

The head is no encoder, so it is not in ``NETS``; and what the registries give RelationNet by default are vectors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.algorithms.relationnet import RelationNet
from pipeline.core.losses import cross_entropy
from pipeline.core.source import Spec
from pipeline.core.types import Batch
from pipeline.nets.conv4 import Conv4
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import MODES, BatchStatistics
from pipeline.nets.relation import Relation
from pipeline.testing.case import Case
from pipeline.testing.checks import CHECKS
from tests.contract.cases import SPECS, source_of_kind
from tests.contract.net_checks import NET_CHECKS, NetCase

pytestmark = pytest.mark.usefixtures("torch_threads")

TRIED = [mode if mode == "transductive" else pytest.param(mode, marks=pytest.mark.grid) for mode in MODES]
"""Modes are the same code for all networks, so that one is enough every day."""
PAIRS = {"maps": (8, 5, 5), "specks": (16, 1, 1), "vectors": (6,)}


class OfConcatenations(Relation):
    """The head on pairs that come concatenated, as it is described."""

    def __init__(self, config, input_shape, outputs, *, normalised):
        channels, *sides = input_shape
        super().__init__(config, (channels // 2, *sides), outputs, normalised=normalised)

    def embed(self, params, x, normalise):
        weight = params["relation0/weight" if self.blocks else "hidden/weight"]
        joined = F.conv2d(x, weight, padding=1) if self.blocks else x @ weight.T
        return super().embed(params, joined, normalise)


@pytest.mark.parametrize("pair", PAIRS)
def test_joining_is_concatenating(pair):
    shape = PAIRS[pair]
    heads = (
        Relation(Relation.Config(), shape, 1, normalised=True),
        OfConcatenations(Relation.Config(), (2 * shape[0], *shape[1:]), 1, normalised=True),
    )
    params = {name: leaf.double() for name, leaf in heads[0].init(np.random.default_rng(0)).items()}
    rng = torch.Generator().manual_seed(1)
    references, queries = (torch.randn(rows, *shape, generator=rng, dtype=torch.float64) for rows in (3, 4))
    pairs = torch.stack([torch.cat([reference, query]) for query in queries for reference in references])
    joined = heads[0].join(params, references.flatten(1), queries.flatten(1))
    assert joined.shape == (12, *heads[0].joined_shape)
    answers = [head(params, x, BatchStatistics()) for head, x in zip(heads, (joined, pairs), strict=True)]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("check", NET_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("mode", TRIED)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_contract_of_a_network(pair, mode, check):
    channels, *sides = PAIRS[pair]
    check(NetCase(OfConcatenations, mode, Spec(Batch, (2 * channels, *sides), 3, "slots", "cross_entropy")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("mode", TRIED)
def test_the_contract_of_an_algorithm_with_maps(mode, check, small_images):
    spec = SPECS["classification"]
    net = Conv4(Conv4.Config(16, "stride", "flatten"), spec.input_shape, None, normalised=mode != "none")
    algorithm = RelationNet(RelationNet.Config(), NormalisedNet(net, mode, spec.input_shape), cross_entropy)
    assert algorithm.head_net.blocks
    check(Case(algorithm, source_of_kind("classification", small_images), mode))
