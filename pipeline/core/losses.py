"""Losses by name. Each scores outputs on a query set and names the metric that is reported, with its direction.

A source names one in its ``Spec``. Validation, comparisons and pages read the metric's direction and unit from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.edit_distance import edit_distance
from pipeline.core.types import END, PADDING, UNKNOWN, Score

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


def cross_entropy_by_part(logits_NC: Tensor, y_N: Tensor) -> Score:
    """``cross_entropy``, with the accuracy of each example for a source that judges the parts of a query set."""
    right_N = (logits_NC.detach().argmax(-1) == y_N).to(logits_NC.dtype)
    return cross_entropy(logits_NC, y_N)._replace(answers={"accuracy": right_N})


def squared_error_by_part(outputs: Tensor, y: Tensor) -> Score:
    """``mean_squared_error``, with that of each example for a source that judges the parts of a query set."""
    each_N = (outputs - y).detach().square().mean(-1)
    return mean_squared_error(outputs, y)._replace(answers={"mse": each_N})


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


def token_cross_entropy(logits_NTV: Tensor, target_NT: Tensor) -> Score:
    """Mean negative log-likelihood in nats over the tokens of all targets, ``END`` included and padding left out.

    The mean over the set's tokens, not over its sentences: a short sentence counts no more than its tokens do.
    """
    real_NT = (target_NT != PADDING).to(logits_NTV.dtype)
    tokens = real_NT.sum().clamp(min=1)
    log_p_NT = torch.log_softmax(logits_NTV, -1).gather(-1, target_NT.unsqueeze(-1)).squeeze(-1)
    right_NT = (logits_NTV.detach().argmax(-1) == target_NT).to(logits_NTV.dtype)
    return Score(-(log_p_NT * real_NT).sum() / tokens, {"token_accuracy": (right_NT * real_NT).sum() / tokens})


def compare_tokens(answer_NT: Tensor, target_NT: Tensor) -> dict[str, Tensor]:
    """The share of answers that are right in every token, and the edit distance per token of the targets.

    A target with ``UNKNOWN`` in it cannot be answered. Pairs of padding alone are left out.
    """
    real_N = (target_NT[:, 0] != PADDING).float()
    known_N = (target_NT != UNKNOWN).all(-1)
    right_N = ((answer_NT == target_NT).all(-1) & known_N).float()
    asked = torch.where(target_NT == UNKNOWN, -1, target_NT)
    lengths_N = ((target_NT != PADDING) & (target_NT != END)).float().sum(-1)
    edits_N = edit_distance(without_end(answer_NT), without_end(asked)).float()
    return {
        "exact_match": (right_N * real_N).sum() / real_N.sum().clamp(min=1),
        "token_error": (edits_N * real_N).sum() / lengths_N.sum().clamp(min=1),
    }


def compare_words(answer_NT: Tensor, target_NT: Tensor) -> dict[str, Tensor]:
    """``compare_tokens``, with the word error rate, which is the share of words with an error in them."""
    compared = compare_tokens(answer_NT, target_NT)
    return {"word_error_rate": 1 - compared["exact_match"], "phone_error_rate": compared["token_error"]}


def without_end(tokens_NT: Tensor) -> Tensor:
    """The tokens with padding in the place of ``END``."""
    return torch.where(tokens_NT == END, PADDING, tokens_NT)


def episode_return(rewards_NH: Tensor, alive_NH: Tensor) -> Score:
    """The mean over episodes of the sum of rewards, and of the steps; the loss is the return's negative."""
    returned = rewards_NH.sum(-1).mean()
    return Score(-returned, {"return": returned, "episode_steps": alive_NH.sum(-1).mean()})


class TaskLoss(NamedTuple):
    """A loss, and the metric that its tasks are judged by.

    Args:
        function: from outputs [N, outputs] and targets [N, ...] to a ``Score``.
        metric: the metric's name: one that ``function``, ``answers`` or the source's ``judge`` gives.
        higher_is_better: the metric's direction.
        unit: ``share`` for a number in [0, 1] that is printed in percent, else the unit as it is printed, or "".
        answers: from what ``predict`` answers to the queries, and their targets, to metrics; for tasks whose loss does
            not take the answers themselves. Evaluation then asks ``predict``, as serving does.
        logits: whether outputs [N, C] are logits of C classes, so that their softmax is the probability of each.
    """

    function: LossFunction
    metric: str
    higher_is_better: bool
    unit: str = ""
    answers: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None
    logits: bool = False


LOSSES: dict[str, TaskLoss] = {
    "cross_entropy": TaskLoss(cross_entropy, "accuracy", True, "share", logits=True),
    "mean_squared_error": TaskLoss(mean_squared_error, "mse", False),
    "sum_of_squares": TaskLoss(sum_of_squares, "value", False),
    "cross_entropy_by_part": TaskLoss(cross_entropy_by_part, "accuracy", True, "share", logits=True),
    "squared_error_by_part": TaskLoss(squared_error_by_part, "mse", False),
    "gaussian": TaskLoss(gaussian, "log_likelihood", True, "nats a point"),
    "tokens": TaskLoss(token_cross_entropy, "exact_match", True, "share", compare_tokens),
    "transcription": TaskLoss(token_cross_entropy, "word_error_rate", False, "share", compare_words),
    "return": TaskLoss(episode_return, "return", True),
    "success": TaskLoss(episode_return, "success", True, "share"),
    "translation": TaskLoss(token_cross_entropy, "bleu", True, "BLEU", compare_tokens),
}
"""A recipe's source names one of these. ``pipeline.register`` adds to them."""


def loss_of_metric(metric: str) -> TaskLoss | None:
    """The loss that reports this metric, or a part of it: ``accuracy_3`` is a part of ``accuracy``."""
    known = {one.metric: one for one in LOSSES.values()}
    return known.get(metric) or known.get(metric.rpartition("_")[0])
