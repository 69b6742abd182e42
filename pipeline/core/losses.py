"""What a query set's outputs are judged by, one function per kind of task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.core.types import Kind, Score

LossFunction = Callable[[Tensor, Tensor], Score]


def cross_entropy(logits_NC: Tensor, y_N: Tensor) -> Score:
    """Mean negative log-likelihood in nats, and accuracy in [0, 1].

    A *mean* over examples: rates published for a sum over the ways (MAML's code) are ``ways`` times larger here.
    """
    log_p_NC = torch.log_softmax(logits_NC, -1)
    loss = -log_p_NC.gather(-1, y_N.unsqueeze(-1)).mean()
    return Score(loss, {"accuracy": accuracy(logits_NC, y_N)})


def accuracy(outputs_NC: Tensor, y_N: Tensor) -> Tensor:
    """The share of examples whose own slot has the largest output."""
    return (outputs_NC.detach().argmax(-1) == y_N).to(outputs_NC.dtype).mean()


def mean_squared_error(outputs: Tensor, y: Tensor) -> Score:
    """Mean squared error over examples and outputs; the metric is the loss."""
    loss = (outputs - y).square().mean()
    return Score(loss, {"mse": loss.detach()})


def sum_of_squares(outputs: Tensor, y: Tensor) -> Score:
    """The sum of squared errors over examples and outputs: a function to be made small; the metric is the loss."""
    loss = (outputs - y).square().sum()
    return Score(loss, {"value": loss.detach()})


LOSSES: dict[Kind, LossFunction] = {
    "classification": cross_entropy,
    "regression": mean_squared_error,
    "sequence": cross_entropy,
    "optimisation": sum_of_squares,
}
METRICS: dict[Kind, str] = {
    "classification": "accuracy",
    "regression": "mse",
    "sequence": "accuracy",
    "optimisation": "value",
}
