"""Normalisation: torch's own layers as the reference for outputs, and each mode looks only at what it may."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from pipeline.core.failures import ConfigError
from pipeline.core.types import Params
from pipeline.nets import NETS
from pipeline.nets.conv4 import Conv4
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import (
    BATCH_MODES,
    EPSILON,
    GROUPS,
    MODES,
    BatchStatistics,
    ExampleStatistics,
    FixedStatistics,
    Mode,
    NoStatistics,
)

pytestmark = pytest.mark.usefixtures("torch_threads")

IMAGE = (1, 16, 16)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
LAYERS = [(6, 16), (6, 16, 5, 5)]

on_vectors_and_images = pytest.mark.parametrize("shape", LAYERS, ids=["vectors", "images"])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(1.0, 2.0, size=shape))


SCALE, SHIFT = drawn(16, seed=1), drawn(16, seed=2)


@on_vectors_and_images
def test_batch_statistics_give_torch_s_outputs(shape):
    h = drawn(*shape)
    expected = F.batch_norm(h, None, None, SCALE, SHIFT, training=True, eps=EPSILON)
    own = BatchStatistics()
    assert_close(own("a", h, SCALE, SHIFT), expected, **EXACT)
    over = (0, *range(2, h.dim()))
    assert_close(own.moments["a/mean"], h.mean(over), **EXACT)
    assert_close(own.moments["a/variance"], h.var(over, correction=0), **EXACT)


@on_vectors_and_images
def test_fixed_statistics_give_torch_s_outputs(shape):
    h, mean, variance = drawn(*shape), drawn(16, seed=3), drawn(16, seed=4).square()
    fixed = FixedStatistics({"a/mean": mean, "a/variance": variance})
    expected = F.batch_norm(h, mean, variance, SCALE, SHIFT, training=False, eps=EPSILON)
    assert_close(fixed("a", h, SCALE, SHIFT), expected, **EXACT)


@on_vectors_and_images
@pytest.mark.parametrize("groups", [1, GROUPS])
def test_example_statistics_give_torch_s_outputs(shape, groups):
    h = drawn(*shape)
    expected = F.group_norm(h, groups, SCALE, SHIFT, eps=EPSILON)
    assert_close(ExampleStatistics(groups)("a", h, SCALE, SHIFT), expected, **EXACT)


@on_vectors_and_images
def test_without_statistics_there_are_a_scale_and_a_shift(shape):
    h = drawn(*shape)
    along = (16, *(1,) * (len(shape) - 2))
    assert_close(NoStatistics()("a", h, SCALE, SHIFT), h * SCALE.view(along) + SHIFT.view(along), **EXACT)
    assert_close(NoStatistics()("a", h, None, SHIFT), h + SHIFT.view(along), **EXACT)


def nets(mode: Mode) -> list[tuple[Net, tuple[int, ...]]]:
    normalised = mode != "none"
    return [
        (MLP(MLP.Config(hidden=(16, 16)), (4,), 3, normalised=normalised), (4,)),
        (Conv4(Conv4.Config(channels=16), IMAGE, 3, normalised=normalised), IMAGE),
    ]


def model_of(net: Net, mode: Mode, shape: tuple[int, ...]) -> tuple[NormalisedNet, Params, Tensor, Tensor]:
    model = NormalisedNet(net, mode, shape)
    params = {name: leaf.double() for name, leaf in model.init(np.random.default_rng(0)).items()}
    return model, params, drawn(7, *shape, seed=5), drawn(5, *shape, seed=6)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_query_s_answer_depends_on(mode: Mode):
    for net, shape in nets(mode):
        model, params, support, queries = model_of(net, mode, shape)
        adapted = model.adapted(params, support, model.running(params) if mode == "running" else None)
        together = model.predict(adapted, queries)
        alone = torch.cat([model.predict(adapted, query.unsqueeze(0)) for query in queries])
        if mode == "transductive":
            assert (together - alone).abs().max() > 1e-3
        else:
            assert_close(together, alone, **EXACT)

        other = model.adapted(params, 2 * support + 1, model.running(params) if mode == "running" else None)
        sees_support = (model.predict(other, queries) - together).abs().max() > 1e-3
        assert sees_support == (mode in ("support", "one_query"))


def test_one_query_is_the_last_row_of_a_batch_of_the_support_and_it():
    for net, shape in nets("one_query"):
        model, params, support, queries = model_of(net, "one_query", shape)
        expected = torch.stack(
            [model.forward_own_statistics(params, torch.cat([support, query[None]]))[0][-1] for query in queries]
        )
        assert_close(model.predict(model.adapted(params, support), queries), expected, **EXACT)


def test_support_statistics_are_those_of_the_given_weights():
    for net, shape in nets("support"):
        model, params, support, _ = model_of(net, "support", shape)
        moved = {name: value + 0.1 for name, value in params.items()}
        assert_close(
            model.predict(model.adapted(moved, support), support),
            model.forward_own_statistics(moved, support)[0],
            **EXACT,
        )


def test_running_moments_start_at_zero_and_one_for_each_layer():
    for net, shape in nets("running"):
        model, params, *_ = model_of(net, "running", shape)
        running = model.running(params)
        layers = {name.rsplit("/", 1)[0] for name in params if name.endswith("/scale")}
        assert {name.rsplit("/", 1)[0] for name in running} == layers
        for name, moment in running.items():
            assert torch.equal(moment, torch.full_like(moment, 1.0 if name.endswith("variance") else 0.0))


@pytest.mark.parametrize("mode", MODES)
def test_only_batch_modes_gather_moments(mode: Mode):
    for net, shape in nets(mode):
        model, params, support, _ = model_of(net, mode, shape)
        assert bool(model.forward_own_statistics(params, support)[1]) == (mode in BATCH_MODES)


@pytest.mark.parametrize("mode", MODES)
def test_no_bias_stands_before_a_normalisation(mode: Mode):
    """Its gradient would be only rounding, of which Adam makes steps."""
    for net, shape in nets(mode):
        model, params, support, _ = model_of(net, mode, shape)
        leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
        outputs = model.forward_own_statistics(leaves, support)[0]
        gradients = torch.autograd.grad((outputs * drawn(*outputs.shape, seed=7)).sum(), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("mode", sorted(BATCH_MODES))
def test_a_channel_that_is_constant_over_the_batch_is_no_division_by_zero(mode: Mode):
    h = torch.ones(4, 16, dtype=torch.float64, requires_grad=True)
    out = BatchStatistics()("a", h, SCALE, SHIFT)
    (gradient,) = torch.autograd.grad(out.sum(), h)
    assert_close(out, SHIFT.expand(4, 16), **EXACT)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("mode", ["group", "layer", "support", "transductive"])
@pytest.mark.parametrize(
    ("name", "config", "shape"),
    [
        ("mlp", MLP.Config(hidden=(12,)), (4,)),
        ("conv4", Conv4.Config(channels=12), IMAGE),
        ("conv4", Conv4.Config(channels=4), IMAGE),
    ],
)
def test_only_group_normalisation_needs_widths_that_can_be_grouped(mode: Mode, name, config, shape):
    """Four channels cut into eight groups would be normalised over half an image each."""

    def outputs() -> Tensor:
        model, params, support, _ = model_of(NETS[name](config, shape, 3, normalised=True), mode, shape)
        return model.forward_own_statistics(params, support)[0]

    if mode == "group":
        with pytest.raises(ConfigError, match=rf"{GROUPS}"):
            outputs()
    else:
        assert outputs().shape == (7, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4,), "conv4 needs images"), ((1, 1, 64), None), ((1, 0, 16), "halves an image four times")],
)
def test_conv4_refuses_what_is_no_image(shape, message):
    if message is None:
        Conv4(Conv4.Config(), shape, 5, normalised=True)
        return
    with pytest.raises(ConfigError, match=message):
        Conv4(Conv4.Config(), shape, 5, normalised=True)


@pytest.mark.parametrize(
    ("config", "features"),
    [
        (Conv4.Config(64, "stride", "mean"), 64),
        (Conv4.Config(64, "stride", "flatten"), 64 * 2 * 2),
        (Conv4.Config(64, "pool", "flatten"), 64),
        (Conv4.Config(32, "pool", "mean"), 32),
    ],
)
def test_conv4_s_embedding_has_the_published_width(config, features):
    """28×28: 14, 7, 4, 2 under stride 2; 14, 7, 3, 1 under pooling."""
    net = Conv4(config, (1, 28, 28), None, normalised=True)
    model = NormalisedNet(net, "transductive", (1, 28, 28))
    params = {name: leaf.double() for name, leaf in model.init(np.random.default_rng(0)).items()}
    outputs, _ = model.forward_own_statistics(params, torch.zeros(2, 1, 28, 28, dtype=torch.float64))
    assert outputs.shape == (2, features)
    assert math.prod(net.feature_shape) == features


def test_pooling_needs_sixteen_pixels():
    with pytest.raises(ConfigError, match="16×16 is enough"):
        Conv4(Conv4.Config(shrink="pool"), (1, 15, 15), 5, normalised=True)
    Conv4(Conv4.Config(shrink="pool"), (1, 16, 16), 5, normalised=True)
