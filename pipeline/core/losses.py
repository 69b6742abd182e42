"""Losses by name. Each scores outputs on a query set and names the metric that is reported, with its direction.

A source names one in its ``Spec``. Validation, comparisons and pages read the metric's direction and unit from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.types import Score

LOG_2PI = math.log(2 * math.pi)
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


def gaussian(outputs: Tensor, y: Tensor) -> Score:
    """The mean over examples of -log p(y), where outputs [N, 2·Y] are the means and the deviations of Gaussians."""
    log_p = log_gaussian(outputs, y).mean()
    return Score(-log_p, {"log_likelihood": log_p.detach()})


def log_gaussian(outputs: Tensor, y: Tensor) -> Tensor:
    """log p(y) in nats, summed over the Y independent numbers of an example: [..., 2·Y] and [..., Y] to [...]."""
    mean, deviation = outputs.chunk(2, -1)
    return -(((y - mean) / deviation).square() / 2 + deviation.log() + LOG_2PI / 2).sum(-1)


def log_mean_exp(log_p: Tensor) -> Tensor:
    """log of the mean over the first dimension."""
    return torch.logsumexp(log_p, 0) - math.log(len(log_p))


class TaskLoss(NamedTuple):
    """A loss, and the metric that its tasks are judged by.

    Args:
        function: from outputs [N, outputs] and targets [N, ...] to a ``Score``.
        metric: the metric's name: one that ``function`` gives, or one that the source's ``judge`` gives.
        higher_is_better: the metric's direction.
        unit: ``share`` for a number in [0, 1] that is printed in percent, else the unit as it is printed, or "".
    """

    function: LossFunction
    metric: str
    higher_is_better: bool
    unit: str = ""


LOSSES: dict[str, TaskLoss] = {
    "cross_entropy": TaskLoss(cross_entropy, "accuracy", True, "share"),
    "mean_squared_error": TaskLoss(mean_squared_error, "mse", False),
    "sum_of_squares": TaskLoss(sum_of_squares, "value", False),
    "gaussian": TaskLoss(gaussian, "log_likelihood", True, "nats a point"),
}
"""A recipe's source names one of these. ``pipeline.register`` adds to them."""


def loss_of_metric(metric: str) -> TaskLoss | None:
    """The loss that reports this metric, or a part of it: ``accuracy_3`` is a part of ``accuracy``."""
    known = {one.metric: one for one in LOSSES.values()}
    return known.get(metric) or known.get(metric.rpartition("_")[0])
