"""A conditional generator: fakes for a task, from noise and a code of its support set."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.types import Params
from pipeline.nets.coding import Perceptron
from pipeline.nets.net import fan_in_normal
from pipeline.nets.normalisation import ExampleStatistics


class Generator:
    """x = G(z ∘ e) with e the mean of a code of each support input, so that their order does not matter.

    The code scales the noise. As a second input it soon outgrew the noise, and all fakes were one image.

    Images, in [0, 1], come out of three 3×3 convolutions of a map with a quarter of the image's sides, which are
    doubled before each of the last two; pixels beyond the image are cut off. Other inputs come out of an MLP,
    unbounded. Hidden maps are normalised over each fake alone, so that no fake depends on another.

    Args:
        input_shape: the shape of one input.
        latent: the width of z and of e.
        width: the width of hidden layers, and the channels of the first map; later ones have half and a quarter.
    """

    def __init__(self, input_shape: tuple[int, ...], latent: int, width: int) -> None:
        self.input_shape, self.latent, self.width = input_shape, latent, width
        inputs = math.prod(input_shape)
        self.encoder = Perceptron("encoder", (inputs,), width, 1, latent)
        self.image = len(input_shape) == 3
        if self.image:
            self.sides = tuple(-(-side // 4) for side in input_shape[1:])
            self.channels = (width, max(width // 2, 1), max(width // 4, 1), input_shape[0])
        else:
            self.decoder = Perceptron("decoder", (latent,), width, 1, inputs)

    def init(self, rng: np.random.Generator) -> Params:
        """Fresh leaves."""
        params = self.encoder.init(rng)
        if not self.image:
            return params | self.decoder.init(rng)
        params["map/weight"] = fan_in_normal(rng, (self.width * math.prod(self.sides), self.latent), self.latent)
        params["map/bias"] = torch.zeros(self.width)
        for i, (seen, channels) in enumerate(zip(self.channels, self.channels[1:], strict=False)):
            gain = 2.0 if i < 2 else 1.0
            params[f"conv{i}/weight"] = fan_in_normal(rng, (channels, seen, 3, 3), 9 * seen, gain)
            params[f"conv{i}/bias"] = torch.zeros(channels)
        return params

    def code(self, params: Params, support_x: Tensor) -> Tensor:
        """e [latent] of support inputs [N, *input]."""
        return self.encoder(params, support_x.flatten(1)).mean(0)

    def __call__(self, params: Params, z_FZ: Tensor, support_x: Tensor) -> Tensor:
        """Fakes [F, *input] from noise [F, latent] and support inputs [N, *input]."""
        h = z_FZ * self.code(params, support_x)
        if not self.image:
            return self.decoder(params, h).unflatten(1, self.input_shape)
        normalise = ExampleStatistics(1)
        h = (h @ params["map/weight"].T).unflatten(1, (self.width, *self.sides))
        h = torch.relu(normalise("map", h, None, params["map/bias"]))
        for i in range(2):
            h = F.conv2d(_doubled(h) if i else h, params[f"conv{i}/weight"], padding=1)
            h = torch.relu(normalise(f"conv{i}", h, None, params[f"conv{i}/bias"]))
        h = F.conv2d(_doubled(h), params["conv2/weight"], params["conv2/bias"], padding=1)
        height, width = self.input_shape[1:]
        return torch.sigmoid(h[:, :, :height, :width])


def _doubled(h: Tensor) -> Tensor:
    """Each value of a map [N, C, H, W] as 2×2 of them."""
    return h.repeat_interleave(2, -1).repeat_interleave(2, -2)
