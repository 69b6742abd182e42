"""The outer optimizer of one group of theta: torch's own, over one flat parameter."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from pipeline.core.bounds import OuterSteps, Rate
from pipeline.core.effects import OnlyWith

MOST_STEPS = 1 << 53
"""Counters are floating-point numbers in torch."""


@dataclass(frozen=True)
class Outer:
    """The outer optimizer of a group of theta. Reptile's epsilon is ``sgd`` with ``lr`` epsilon.

    ``step_factor`` is at most 1: a rate that grows at each step overflows in the end.

    Optimizers are those that work on each coordinate alone, since a group is stepped as one vector.

    Attributes:
        optimizer: Which of torch's optimizers.
        lr: Its rate at the first step.
        momentum: Of ``sgd`` and ``rmsprop``.
        beta1: Of ``adam`` and ``adamw``.
        beta2: Of ``adam`` and ``adamw``.
        weight_decay: Torch's ``weight_decay`` of that optimizer.
        clip: Bound of the 2-norm of the group's mean gradient; null is none.
        schedule: How the rate changes; ``linear`` and ``cosine`` reach 0 after the last step.
        step_every: Outer steps between two changes under ``step``.
        step_factor: What the rate is multiplied by under ``step``.
    """

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: Rate = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1), OnlyWith("optimizer", "sgd", "rmsprop")] = 0.0
    beta1: Annotated[float, Ge(0), Lt(1), OnlyWith("optimizer", "adam", "adamw")] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1), OnlyWith("optimizer", "adam", "adamw")] = 0.999
    weight_decay: Annotated[float, Ge(0), Le(1e6)] = 0.0
    clip: Annotated[float, Gt(0), Le(1e30)] | None = None
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    step_every: Annotated[OuterSteps, OnlyWith("schedule", "step")] = 2000
    step_factor: Annotated[float, Gt(0), Le(1), OnlyWith("schedule", "step")] = 0.5


def build_optimizer(config: Outer, parameter: Tensor) -> Optimizer:
    lr, decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD([parameter], lr, momentum=config.momentum, weight_decay=decay)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop([parameter], lr, momentum=config.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind([parameter], lr, betas=(config.beta1, config.beta2), weight_decay=decay)


def build_scheduler(config: Outer, optimizer: Optimizer, steps: int) -> LRScheduler:
    """``linear`` and ``cosine`` reach zero after the run's last step."""
    if config.schedule == "linear":
        return LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if config.schedule == "step":
        return StepLR(optimizer, step_size=config.step_every, gamma=config.step_factor)
    return ConstantLR(optimizer, factor=1.0)


def kept_by(config: Outer, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of the optimizer for a parameter of one coordinate, after a step."""
    parameter = torch.zeros(1, dtype=dtype)
    parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(config, parameter)
    optimizer.step()
    return {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}


_MOVING = {"last_epoch", "_step_count", "_last_lr"}
"""The parts of a schedule's state that change from step to step; the recipe determines the rest."""


def check_schedule(scheduler: LRScheduler, texts: Mapping[str, str], group: str) -> None:
    """Raises ``ValueError`` where the texts are not the state of such a schedule and a rate."""
    try:
        theirs, rate = json.loads(texts[f"scheduler/{group}"]), json.loads(texts[f"rate/{group}"])
        for key, ours in scheduler.state_dict().items():
            found = theirs.get(key, ours)
            good = _alike(found, ours) if key in _MOVING else found == ours
            if not good:
                raise ValueError(f"scheduler/{group} has {key} {found!r}")
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"scheduler/{group} or rate/{group} cannot be read ({error})") from None
    if not _alike(rate, 0.0):
        raise ValueError(f"rate/{group} is {rate!r}")


def _alike(found: object, ours: object) -> bool:
    """Whether both are finite numbers, whole and not negative where ours is whole, or lists of as many such."""
    if isinstance(ours, list):
        return isinstance(found, list) and len(found) == len(ours) and all(map(_alike, found, ours))
    if type(ours) is int:
        return type(found) is int and 0 <= found <= MOST_STEPS
    return type(found) in (int, float) and abs(cast(float, found)) <= sys.float_info.max
