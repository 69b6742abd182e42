"""What one would write without the project: each method's mean gradient over a step's tasks, on torch autograd.

A task is (support x, support y, query x, query y); a sequence of labelled images is (x, y). The gradients are left in
``.grad`` of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.bench.by_hand.nets import Forward, Weights, conv4_pooled, mlp

HandTask = tuple[Tensor, ...]
Gradient = Callable[[Weights, Sequence[HandTask]], None]


def gradient_of(recipe: Any, forward: Forward, moments: Weights | None = None) -> Gradient:
    """The gradient of a recipe's method. ``moments`` are ProtoNet's running ones, which it moves."""
    algorithm = recipe.algorithm
    if algorithm.name == "maml":
        loss = F.mse_loss if recipe.source.name == "sinusoid" else F.cross_entropy
        return lambda weights, tasks: maml(weights, tasks, forward, loss, algorithm.inner_lr, algorithm.inner_steps)
    if algorithm.name == "protonet":
        return lambda weights, tasks: protonet(weights, tasks, recipe.task.train.ways, moments)
    if algorithm.name == "memoryrnn":
        return lambda weights, tasks: lstm(weights, tasks, recipe.task.train.ways)
    raise ValueError(f"algorithm.name: {algorithm.name} is not written by hand; there are maml, protonet and memoryrnn")


def maml(
    weights: Weights,
    tasks: Sequence[HandTask],
    forward: Forward,
    loss: Callable[[Tensor, Tensor], Tensor],
    rate: float,
    steps: int,
) -> None:
    """Second-order MAML, one task after the other; memory of one task at a time."""
    for support_x, support_y, query_x, query_y in tasks:
        phi = weights
        for _ in range(steps):
            inner = torch.autograd.grad(loss(forward(phi, support_x), support_y), list(phi.values()), create_graph=True)
            phi = {name: leaf - rate * grad for (name, leaf), grad in zip(phi.items(), inner, strict=True)}
        backward(loss(forward(phi, query_x), query_y) / len(tasks))


def protonet(weights: Weights, tasks: Sequence[HandTask], ways: int, moments: Weights | None) -> None:
    """Support and queries are normalised apart, and the running moments are the queries', as the recipe has it."""
    for support_x, support_y, query_x, query_y in tasks:
        support, query = conv4_pooled(weights, support_x), conv4_pooled(weights, query_x, moments)
        member = F.one_hot(support_y, ways).to(support.dtype)
        prototypes = (member.T @ support) / member.sum(0).unsqueeze(1)
        distances = (query.unsqueeze(1) - prototypes).square().sum(-1)
        backward(F.cross_entropy(-distances, query_y) / len(tasks))


def lstm(weights: Weights, tasks: Sequence[HandTask], ways: int) -> None:
    """All sequences as one batch through torch's own LSTM. The image before is shown beside its label."""
    x, y = (torch.stack(part, 1) for part in zip(*tasks, strict=True))  # [T, B, …]
    features = mlp({name: leaf for name, leaf in weights.items() if name.startswith("layer")}, x.flatten(0, 1))
    features = features.unflatten(0, y.shape)
    example = torch.cat([features, F.one_hot(y, ways).to(features.dtype)], -1)
    before = torch.cat([torch.zeros_like(example[:1]), example[:-1]])
    start = features.new_zeros(1, y.shape[1], weights["cell/recurrent"].shape[1])
    cell = [
        weights["cell/input"],
        weights["cell/recurrent"],
        weights["cell/bias"],
        torch.zeros_like(weights["cell/bias"]),
    ]
    inputs = torch.cat([features, before], -1)
    answers, *_ = torch.lstm(inputs, (start, start), cell, True, 1, 0.0, True, False, False)
    outputs = F.linear(answers, weights["head/weight"], weights["head/bias"])
    backward(F.cross_entropy(outputs.flatten(0, 1), y.flatten()))


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
