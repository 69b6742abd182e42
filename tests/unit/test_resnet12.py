"""ResNet-12: its shapes, the number of its parameters, what it refuses, and a step of two methods on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.algorithms.maml import MAML
from pipeline.algorithms.protonet import ProtoNet
from pipeline.core.failures import ConfigError
from pipeline.core.flat import Layout
from pipeline.core.losses import cross_entropy
from pipeline.core.network import DROPOUT
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Batch
from pipeline.engine.interfaces import Chunk
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.nets.model import NormalisedNet
from pipeline.nets.resnet12 import SLOPE, ResNet12
from pipeline.testing.tasks import NoisyPictures

pytestmark = pytest.mark.usefixtures("torch_threads")

TINY = (2, 3, 4, 5)


def net(shape=(1, 16, 16), outputs=3, channels=TINY, dropout=0.0, normalised=True):
    return ResNet12(ResNet12.Config(channels, dropout), shape, outputs, normalised=normalised)


def model(mode="transductive", **changes):
    of = net(normalised=mode != "none", **changes)
    return NormalisedNet(of, mode, changes.get("shape", (1, 16, 16)))


def parameters(inputs, channels, outputs):
    """Of a block: three 3×3 convolutions and one of 1×1, without bias, each with a scale and a shift for a channel."""
    total = 0
    for wide, narrow in zip((inputs, *channels), channels, strict=False):
        total += 9 * (wide * narrow + 2 * narrow**2) + wide * narrow + 4 * 2 * narrow
    return total + (0 if outputs is None else channels[-1] * outputs + outputs)


@pytest.mark.parametrize("outputs", [3, None])
@pytest.mark.parametrize(("inputs", "channels"), [(1, TINY), (3, (8, 8, 8, 8))])
def test_the_number_of_parameters_is_the_closed_form_s(inputs, channels, outputs):
    leaves = net((inputs, 16, 16), outputs, channels).init(np.random.default_rng(0))
    assert sum(leaf.numel() for leaf in leaves.values()) == parameters(inputs, channels, outputs)


def test_the_default_is_the_wide_one_of_the_papers():
    """64, 160, 320, 640 channels: 12.4 million parameters without a head (arXiv 1904.03758)."""
    assert ResNet12.Config().channels == (64, 160, 320, 640)
    assert parameters(3, ResNet12.Config().channels, None) == 12_424_320
    assert ResNet12.Config().dropout == 0


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 31), (1, 33, 20)])
def test_features_are_the_mean_over_positions_of_the_last_block(shape):
    whole, body = model(shape=shape), model(shape=shape, outputs=None)
    x, params = torch.rand(4, *shape), whole.init(np.random.default_rng(0))
    assert whole.net.feature_shape == body.net.feature_shape == (TINY[-1],)
    assert whole.net.features == TINY[-1]
    assert whole.forward_own_statistics(params, x)[0].shape == (4, 3)
    without_head = body.init(np.random.default_rng(0))
    assert set(params) - set(without_head) == {"head/weight", "head/bias"}
    assert body.forward_own_statistics(without_head, x)[0].shape == (4, TINY[-1])
    assert whole.embed(params, x).shape == (4, TINY[-1])


def test_a_block_is_three_convolutions_and_a_shortcut():
    """Written out with torch's functions, of one block: conv, norm, leaky ReLU, twice; conv, norm; the shortcut."""
    of = model("none")
    params = {name: leaf.double() for name, leaf in of.init(np.random.default_rng(0)).items()}
    h = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    answer = of.embed(params, h)
    for number in range(4):
        block, x = f"blocks/{number}", h

        def convolved(z, name, norm, padding=1, block=block):
            z = torch.nn.functional.conv2d(z, params[f"{block}/{name}/weight"], padding=padding)
            weight, bias = (params[f"{block}/{norm}/{part}"].view(-1, 1, 1) for part in ("weight", "bias"))
            return z * weight + bias

        for layer in range(3):
            h = convolved(h, f"convolutions/{layer}", f"norms/{layer}")
            h = torch.nn.functional.leaky_relu(h, SLOPE) if layer < 2 else h
        h = torch.nn.functional.leaky_relu(h + convolved(x, "shortcut", "shortcut_norm", padding=0), SLOPE)
        h = torch.nn.functional.max_pool2d(h, 2)
    torch.testing.assert_close(answer, h.mean((2, 3)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 15, 15), r"net.name: resnet12 halves an image four times, \(15, 15\) is too small; 16×16 is enough"),
        ((3, 84, 15), r"net.name: resnet12 halves an image four times, \(84, 15\) is too small"),
        ((10,), r"net.name: resnet12 needs images \[channels, height, width\], the source gives \(10,\); use mlp"),
    ],
)
def test_what_is_no_image_of_16_pixels_is_refused_in_one_line(shape, message):
    with pytest.raises(ConfigError, match=message) as caught:
        net(shape)
    assert "\n" not in str(caught.value)


def test_dropout_stands_behind_each_block():
    of = net(dropout=0.25)
    masks = of.draw_masks(np.random.default_rng(0), 6)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {
        f"{DROPOUT}blocks/{number}/dropout": (6, channels, side, side)
        for number, (channels, side) in enumerate(zip(TINY, (8, 4, 2, 1), strict=True))
    }
    assert net().draw_masks(np.random.default_rng(0), 6) == {}


METHODS = {
    "maml": (MAML, MAML.Config(inner_lr=0.05, inner_steps=2), 3),
    "protonet": (ProtoNet, ProtoNet.Config(), None),
}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize(("kind", "config", "outputs"), METHODS.values(), ids=METHODS)
def test_a_step_of_learning_gives_a_finite_gradient_for_every_leaf(kind, config, outputs, dropout):
    algorithm = kind(config, model(outputs=outputs, dropout=dropout), cross_entropy)
    source = NoisyPictures(Batch, TaskShapes(TaskShape(3, 2, 2), TaskShape(3, 2, 2)))
    layout = Layout.of(algorithm.init(np.random.default_rng(0)), torch.float64)
    theta = layout.pack(algorithm.init(np.random.default_rng(0))).numpy()
    chunk = Chunk(1, 0, tuple(Ticket(0, "train", "train", 1, number) for number in range(2)))
    gradients = []
    for vectorise in (True, False):
        numerics = Numerics(dtype="float64", device="cpu", threads=1, vectorise=vectorise)
        contribution, report = Worker(algorithm, source, layout, numerics, 2).learn(theta, chunk)
        assert report.used == 2
        assert np.isfinite(report.loss)
        gradients.append(torch.from_numpy(contribution.gradient))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)
    for name, leaf in layout.unpack(gradients[0])["model"].items():
        assert torch.isfinite(leaf).all()
        assert leaf.abs().max() > 1e-9, name


def test_a_small_task_is_learned():
    """Descent on one task's support set takes its loss down."""
    of = model()
    params = {name: leaf.double().requires_grad_() for name, leaf in of.init(np.random.default_rng(0)).items()}
    task = NoisyPictures(Batch, TaskShapes(TaskShape(3, 4, 1), TaskShape(3, 4, 1))).sample(
        Ticket(0, "train", "train", 1, 0)
    )
    x, y = task.support.x.double(), task.support.y
    losses = []
    for _ in range(10):
        loss = cross_entropy(of.forward_own_statistics(params, x)[0], y).loss
        gradient = torch.autograd.grad(loss, list(params.values()))
        params = {
            name: (leaf - 0.05 * slope).detach().requires_grad_()
            for (name, leaf), slope in zip(params.items(), gradient, strict=True)
        }
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
