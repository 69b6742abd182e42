"""The outer optimizer of one group of theta: torch's own, over one flat parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, StepLR


@dataclass(frozen=True)
class Outer:
    """``clip`` bounds the 2-norm of the group's mean gradient. Reptile's epsilon is ``sgd`` with ``lr`` epsilon.

    Optimizers are those that work on each coordinate alone, since a group is stepped as one vector.
    """

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    weight_decay: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Gt(0)] | None = None
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    step_every: Annotated[int, Ge(1)] = 2000
    step_factor: Annotated[float, Gt(0)] = 0.5


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
