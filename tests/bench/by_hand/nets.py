"""The networks as one would write them: functions of a dict of weights, with torch's own layers.

The leaves have our names, so that one theta serves both. Torch's batch norm is right in a loop; under ``vmap`` its
second derivatives are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


def forward_of(net: Any) -> Forward:
    """The forward pass of a recipe's network; without the leaves ``head/…`` it gives the features."""
    if net.name == "mlp":
        return mlp
    if net.name == "conv4":
        return conv4_strided if net.shrink == "stride" else conv4_pooled
    if net.name == "resnet12":
        return resnet12
    raise ValueError(f"net.name: {net.name} is not written by hand; there are mlp, conv4 and resnet12")


def mlp(weights: Weights, x: Tensor) -> Tensor:
    """ReLU after each hidden layer."""
    h, layer = x.flatten(1), 0
    while f"layer{layer}/weight" in weights:
        h = F.relu(F.linear(h, weights[f"layer{layer}/weight"], weights[f"layer{layer}/bias"]))
        layer += 1
    return _head(weights, h)


def conv4_strided(weights: Weights, x: Tensor) -> Tensor:
    """MAML's on Omniglot: strides of 2, the mean over positions."""
    h = x
    for block in range(4):
        h = F.conv2d(h, weights[f"block{block}/weight"], stride=2, padding=1)
        h = F.relu(_norm(h, weights[f"block{block}/scale"], weights[f"block{block}/bias"]))
    return _head(weights, h.mean((2, 3)))


def conv4_pooled(weights: Weights, x: Tensor, moments: Weights | None = None) -> Tensor:
    """ProtoNet's: max pooling, all positions. Running ``moments`` move towards the batch's, by torch's layer."""
    h = x
    for block in range(4):
        name = f"block{block}"
        h = F.conv2d(h, weights[f"{name}/weight"], padding=1)
        running = (None, None) if moments is None else (moments[f"{name}/mean"], moments[f"{name}/variance"])
        h = _norm(h, weights[f"{name}/scale"], weights[f"{name}/bias"], *running)
        h = F.relu(F.max_pool2d(h, 2))
    return _head(weights, h.flatten(1))


def resnet12(weights: Weights, x: Tensor) -> Tensor:
    """Four residual blocks of three convolutions."""

    def norm(h: Tensor, name: str) -> Tensor:
        return _norm(h, weights[f"{name}/weight"], weights[f"{name}/bias"])

    h = x
    for block in range(4):
        name, before = f"blocks/{block}", h
        for layer in range(3):
            h = norm(F.conv2d(h, weights[f"{name}/convolutions/{layer}/weight"], padding=1), f"{name}/norms/{layer}")
            if layer < 2:
                h = F.leaky_relu(h, 0.1)
        h = h + norm(F.conv2d(before, weights[f"{name}/shortcut/weight"]), f"{name}/shortcut_norm")
        h = F.max_pool2d(F.leaky_relu(h, 0.1), 2)
    return _head(weights, h.mean((2, 3)))


def _norm(
    h: Tensor, scale: Tensor, shift: Tensor, mean: Tensor | None = None, variance: Tensor | None = None
) -> Tensor:
    return F.batch_norm(h, mean, variance, scale, shift, training=True)


def _head(weights: Weights, features: Tensor) -> Tensor:
    if "head/weight" not in weights:
        return features
    return torch.addmm(weights["head/bias"], features, weights["head/weight"].T)
