"""The primitives of networks against torch's own in a loop, in float64: values, and derivatives to the third."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from pipeline.algorithms.maml import MAML, MAMLConfig
from pipeline.core.flat import cast, join
from pipeline.core.losses import cross_entropy
from pipeline.core.types import Batch, Context, Task
from pipeline.nets import convolution
from pipeline.nets.batch_norm import EPSILON, batch_norm
from pipeline.nets.conv4 import Conv4, Conv4Config
from pipeline.nets.convolution import conv2d
from pipeline.nets.model import NormalisedNet
from pipeline.nets.pooling import max_pool2d

EXACT = {"rtol": 1e-10, "atol": 1e-10}
CASES = [(3, 2, 1, (5, 4)), (3, 1, 1, (3, 3)), (1, 1, 0, (2, 3)), (5, 2, 2, (5, 5))]
"""Kernel size, stride, padding, sides."""


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture(params=["grouped", "folded"])
def as_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that share weights as groups, or in the batch as on a GPU."""
    monkeypatch.setattr(convolution, "_folds", lambda lift, maps, w, dim, of: dim is None and request.param == "folded")


@pytest.mark.parametrize(("size", "stride", "padding", "sides"), CASES)
@pytest.mark.parametrize("inputs", [1, 4])
def test_a_convolution_is_torchs_with_its_derivatives(
    size: int, stride: int, padding: int, sides: tuple[int, int], inputs: int
) -> None:
    x, w = numbers(2, inputs, *sides).requires_grad_(), numbers(2, inputs, size, size).requires_grad_()
    torch.testing.assert_close(conv2d(x, w, stride, padding), F.conv2d(x, w, stride=stride, padding=padding), **EXACT)
    assert torch.autograd.gradcheck(lambda x, w: conv2d(x, w, stride, padding), (x, w))
    assert torch.autograd.gradgradcheck(lambda x, w: conv2d(x, w, stride, padding), (x, w))


def test_a_convolution_of_groups_is_torchs() -> None:
    x, w = numbers(2, 6, 4, 4), numbers(9, 2, 3, 3)
    torch.testing.assert_close(conv2d(x, w, 1, 1, groups=3), F.conv2d(x, w, padding=1, groups=3), **EXACT)
    found = vmap(lambda x, w: conv2d(x, w, 1, 1, groups=3), in_dims=(0, None))(numbers(4, 2, 6, 4, 4), w)
    wanted = torch.stack([F.conv2d(one, w, padding=1, groups=3) for one in numbers(4, 2, 6, 4, 4)])
    torch.testing.assert_close(found, wanted, **EXACT)


def test_no_gradient_is_computed_by_inputs_that_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution._ByInputs, "forward", None)
    w = numbers(3, 2, 3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(conv2d(numbers(4, 2, 5, 5), w).sum(), w)
    assert slope.shape == w.shape


def bend(h: Tensor) -> Tensor:
    return (h * h * h + h).mean()


def ours(x: Tensor, w: Tensor) -> Tensor:
    return batch_norm(conv2d(x, w, 1, 1), w[:, 0, 0, 0] + 1, w[:, 0, 0, 1])[0]


def torchs(x: Tensor, w: Tensor) -> Tensor:
    h = F.conv2d(x, w, padding=1)
    return F.batch_norm(h, None, None, w[:, 0, 0, 0] + 1, w[:, 0, 0, 1], training=True)


def meta_loss(layer: Callable[[Tensor, Tensor], Tensor], w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """MAML's loss of two layers: its gradient by w has second derivatives of a layer."""

    def loss(v: Tensor, x: Tensor) -> Tensor:
        return bend(layer(torch.tanh(layer(x, v)), v))

    return loss(w - 0.1 * grad(loss)(w, x), y)


@pytest.mark.usefixtures("as_on")
@pytest.mark.parametrize(("channels", "examples"), [(1, 2), (4, 2), (4, 1)])
def test_the_meta_gradient_of_many_tasks_is_that_of_a_loop(channels: int, examples: int) -> None:
    w = numbers(channels, channels, 3, 3).requires_grad_()
    x, y = numbers(3, examples, channels, 4, 4), numbers(3, 4, channels, 4, 4, seed=1)

    def slope(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, w)[0]

    apart = slope(torch.stack([meta_loss(torchs, w, *one) for one in zip(x, y, strict=True)]).sum())
    together = slope(vmap(lambda x, y: meta_loss(ours, w, x, y))(x, y).sum())
    torch.testing.assert_close(together, apart, **EXACT)
    known_wrong = slope(vmap(lambda x, y: meta_loss(torchs, w, x, y))(x, y).sum())
    assert (known_wrong - apart).abs().max() > 1e-4


@pytest.mark.usefixtures("as_on")
def test_vmap_within_vmap() -> None:
    """Queries one at a time within tasks, with weights of each task's own or of all."""
    x, w = numbers(2, 3, 4, 5, 6, 6), numbers(2, 7, 5, 3, 3)
    wanted = torch.stack([torch.stack([F.conv2d(one, w[t], padding=1) for one in x[t]]) for t in range(2)])
    found = vmap(lambda x, w: vmap(lambda one: conv2d(one, w, 1, 1))(x))(x, w)
    torch.testing.assert_close(found, wanted, **EXACT)
    inner = vmap(vmap(lambda x, w: conv2d(x, w, 1, 1)), in_dims=(0, 1))(x, numbers(3, 2, 7, 5, 3, 3))
    assert inner.shape == (2, 3, 4, 7, 6, 6)

    def statistics(one: Tensor) -> Tensor:
        return batch_norm(one, torch.ones(5).double(), torch.zeros(5).double())[0]

    found = vmap(vmap(statistics))(x)
    wanted = torch.stack([torch.stack([statistics(one) for one in task]) for task in x])
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)])
def test_batch_norm_is_torchs_with_its_derivatives(shape: tuple[int, ...]) -> None:
    h, scale, shift = numbers(*shape).requires_grad_(), numbers(3).requires_grad_(), numbers(3, seed=2).requires_grad_()
    y, mean, variance = batch_norm(h, scale, shift)
    torch.testing.assert_close(y, F.batch_norm(h, None, None, scale, shift, training=True, eps=EPSILON), **EXACT)
    over = [0, *range(2, h.dim())]
    torch.testing.assert_close(mean, h.mean(over), **EXACT)
    torch.testing.assert_close(variance, h.var(over, correction=0), **EXACT)
    assert torch.autograd.gradcheck(batch_norm, (h, scale, shift))
    assert torch.autograd.gradgradcheck(batch_norm, (h, scale, shift))


def test_the_third_derivative_of_batch_norm() -> None:
    h, scale, shift = numbers(5, 2), numbers(2), numbers(2, seed=3)

    def in_primitives(h: Tensor) -> Tensor:
        rate = (h.var(0, correction=0) + EPSILON).rsqrt()
        return ((h - h.mean(0)) * rate * scale + shift).pow(3).sum()

    def ours(h: Tensor) -> Tensor:
        return batch_norm(h, scale, shift)[0].pow(3).sum()

    def third(f: Callable[[Tensor], Tensor]) -> Tensor:
        return grad(lambda h: grad(lambda h: grad(f)(h).pow(2).sum())(h).pow(2).sum())(h)

    torch.testing.assert_close(third(ours), third(in_primitives), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("torch_threads")  # with more, torch's own is less wrong
def test_the_variance_of_many_rows_is_exact_where_torchs_is_not() -> None:
    h = (torch.randn(75, 512, 14, 14, generator=torch.Generator().manual_seed(0)) + 0.5).to(
        memory_format=torch.channels_last
    )
    ones, exact = torch.ones(512), h.double().var((0, 2, 3), correction=0)
    ours = batch_norm(h, ones, ones)[2]
    torchs_own = torch.native_batch_norm(h, ones, ones, None, None, True, 0.0, EPSILON)[2].pow(-2) - EPSILON
    off, others = (((found - exact) / exact).abs().max().item() for found in (ours, torchs_own))
    assert off < 1e-6 < 4e-6 < others


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_of_half_the_bits_are_normalised_alike_by_many_tasks(channels: int) -> None:
    h = numbers(4, 5, channels, 4, 4).bfloat16()
    scale, shift = numbers(channels).float(), numbers(channels, seed=1).float()

    def slope(h: Tensor) -> Tensor:
        return grad(lambda h: batch_norm(h, scale, shift)[0].float().pow(3).sum())(h)

    torch.testing.assert_close(vmap(slope)(h), torch.stack([slope(one) for one in h]), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("sides", [(4, 4), (5, 7)])
def test_pooling_is_torchs_with_its_derivatives(sides: tuple[int, int]) -> None:
    h = numbers(2, 3, *sides).requires_grad_()
    torch.testing.assert_close(max_pool2d(h, 2), F.max_pool2d(h, 2), **EXACT)
    assert torch.autograd.gradcheck(lambda h: max_pool2d(h, 2), h)
    assert torch.autograd.gradgradcheck(lambda h: max_pool2d(h, 2).pow(2), h)
    tasks = numbers(4, 2, 3, *sides)
    torch.testing.assert_close(
        vmap(lambda h: max_pool2d(h, 2))(tasks), F.max_pool2d(tasks.flatten(0, 1), 2).unflatten(0, (4, 2))
    )


@pytest.mark.parametrize("mode", ["transductive", "support", "layer"])
def test_maps_of_half_the_bits_give_nearly_the_same_gradient(mode: str) -> None:
    def gradient(maps: str) -> tuple[Tensor, Tensor]:
        net = Conv4(Conv4Config(channels=8, maps=maps), (1, 28, 28), 3, normalised=True)
        algorithm = MAML(MAMLConfig(inner_lr=0.1), NormalisedNet(net, mode, (1, 28, 28)), cross_entropy)
        theta = cast(algorithm.init(np.random.default_rng(0)), torch.float32)
        x, y = numbers(6, 1, 28, 28).float(), torch.tensor([0, 1, 2, 0, 1, 2])
        task = Task("", Batch(x, y), Batch(x.flip(0), y.flip(0)), 3)
        found, score = algorithm.learn(theta, task, Context(1, "train", 3, {}))
        return join(found["model"]), score.loss

    (rounded, loss), (whole, exact) = gradient("bfloat16"), gradient("full")
    assert rounded.dtype == loss.dtype == torch.float32
    assert 1e-4 < (rounded - whole).norm() / whole.norm() < 0.2
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
