"""What one would write without the project: MAML as a loop over tasks on torch autograd, as in the authors' setting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.types import Batch, Task

Weights = list[Tensor]


def mlp() -> tuple[Weights, Callable[[Weights, Tensor], Tensor]]:
    """1-40-40-1 with ReLU."""
    sizes = [1, 40, 40, 1]
    weights = [
        tensor.requires_grad_()
        for fan_in, width in zip(sizes, sizes[1:], strict=False)
        for tensor in (torch.randn(width, fan_in) / (3 * fan_in) ** 0.5, torch.zeros(width))
    ]

    def forward(weights: Weights, x: Tensor) -> Tensor:
        h = torch.relu(F.linear(x, weights[0], weights[1]))
        h = torch.relu(F.linear(h, weights[2], weights[3]))
        return F.linear(h, weights[4], weights[5])

    return weights, forward


def conv4() -> tuple[Weights, Callable[[Weights, Tensor], Tensor]]:
    """Four stride-2 convolutions of 64 channels with torch's own batch norm, which is right in a loop."""
    weights: Weights = []
    channels = 1
    for _ in range(4):
        weights += [torch.randn(64, channels, 3, 3) * (2 / (9 * channels)) ** 0.5, torch.ones(64), torch.zeros(64)]
        channels = 64
    weights += [torch.randn(5, 64) / 8, torch.zeros(5)]

    def forward(weights: Weights, x: Tensor) -> Tensor:
        h = x
        for i in range(4):
            kernel, scale, shift = weights[3 * i : 3 * i + 3]
            h = F.conv2d(h, kernel, stride=2, padding=1)
            h = torch.relu(F.batch_norm(h, None, None, scale, shift, training=True))
        return F.linear(h.mean((2, 3)), weights[-2], weights[-1])

    return [weight.requires_grad_() for weight in weights], forward


def outer_gradient(
    weights: Weights,
    forward: Callable[[Weights, Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    tasks: list[Task[Batch]],
    rate: float,
) -> tuple[Tensor, ...]:
    """The mean second-order MAML gradient after one inner step; memory of one task at a time."""
    for weight in weights:
        weight.grad = None
    for task in tasks:
        inner = torch.autograd.grad(loss(forward(weights, task.support.x), task.support.y), weights, create_graph=True)
        phi = [weight - rate * gradient for weight, gradient in zip(weights, inner, strict=True)]
        (loss(forward(phi, task.query.x), task.query.y) / len(tasks)).backward()  # type: ignore[no-untyped-call]
    return tuple(weight.grad for weight in weights if weight.grad is not None)
