"""Networks that code a set: MLPs over its elements, masked means, and cross-attention."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.core.types import Params
from pipeline.nets.mlp import MLP, MLPConfig
from pipeline.nets.normalisation import NoStatistics

EMPTY = -1e30
"""The logit of an element that is padding."""


class Perceptron:
    """An MLP whose leaves stand under a name in a larger group of parameters.

    Args:
        name: how the names of its leaves begin.
        inputs: the width of an input, or of each part of one.
        width: the width of each of ``layers`` hidden layers.
        outputs: the width of an output.
    """

    def __init__(self, name: str, inputs: tuple[int, ...], width: int, layers: int, outputs: int) -> None:
        self.name, self.inputs = f"{name}/", inputs
        self.net = MLP(MLPConfig((width,) * layers), (sum(inputs),), outputs, normalised=False)

    def init(self, rng: np.random.Generator) -> Params:
        """Hidden biases begin within ±3/√fan-in: with zeros, every unit would bend where its input is 0.

        Each part of an input has the same share of the first layer, however wide it is: one number beside a code of
        128 would else hardly be seen.
        """
        leaves = self.net.init(rng)
        for layer, fan_in in enumerate(self.net.widths[:-1]):
            bound = 3 * fan_in**-0.5
            leaves[f"layer{layer}/bias"] = torch.from_numpy(rng.uniform(-bound, bound, self.net.widths[layer + 1]))
        even = sum(self.inputs) / len(self.inputs)
        share = np.concatenate([np.full(part, (even / part) ** 0.5) for part in self.inputs])
        leaves["layer0/weight"] = leaves["layer0/weight"] * torch.from_numpy(share)
        return {self.name + leaf: value for leaf, value in leaves.items()}

    def __call__(self, params: Params, x_NI: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        own = {name.removeprefix(self.name): leaf for name, leaf in params.items() if name.startswith(self.name)}
        return self.net(own, x_NI, NoStatistics())


def masked_mean(codes_ND: Tensor, mask_N: Tensor) -> Tensor:
    """The mean [D] over the elements that are no padding; zeros for an empty set."""
    return (codes_ND * mask_N.unsqueeze(1)).sum(0) / mask_N.sum().clamp(min=1.0)


def attend(queries_QD: Tensor, keys_ND: Tensor, values_NV: Tensor, mask_N: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention [Q, V] of each query over the elements that are no padding; zeros for an empty set.

    Vaswani et al., arXiv 1706.03762, eq. 1. Heads share out the numbers of keys and of values.
    """
    q, k, v = (of.unflatten(1, (heads, -1)).transpose(0, 1) for of in (queries_QD, keys_ND, values_NV))
    logits = q @ k.transpose(1, 2) / k.shape[-1] ** 0.5 + EMPTY * (1 - mask_N)
    shares = torch.softmax(logits, -1) * mask_N
    return (shares @ v).transpose(0, 1).flatten(1)
