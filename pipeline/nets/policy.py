"""A policy: a multi-layer perceptron whose outputs are a distribution over actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from pipeline.core.actions import Distribution, distribution_of
from pipeline.core.bounds import Rate, Width
from pipeline.core.failures import ConfigError
from pipeline.core.network import HEAD
from pipeline.core.source import Spec
from pipeline.core.types import Params, Simulator
from pipeline.nets.mlp import MLP, MLPConfig

LOG_STD = f"{HEAD}log_std"


@dataclass(frozen=True)
class PolicyConfig(MLPConfig):
    """Fully connected layers, and where the deviation of actions that are numbers begins.

    Attributes:
        init_std: Deviation of each number of an action at the start; it does not depend on the observation. Discrete
            actions have none.
    """

    hidden: Annotated[tuple[Width, ...], Len(0, 16)] = (64, 64)
    activation: Literal["relu", "tanh"] = "tanh"
    init_gain: Rate = 1.0
    init_std: Rate = 1.0


class Policy(MLP):
    """Outputs are logits of discrete actions; of others, means and the logarithms of deviations, one after the other.

    Raises:
        ConfigError: ``init_std`` for discrete actions.
    """

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    takes = (Simulator,)
    config: PolicyConfig
    distribution: Distribution
    numbers: int
    """How many numbers an action consists of; 0 for discrete ones."""

    @classmethod
    def for_tasks(cls, config: PolicyConfig, spec: Spec, *, head: bool, normalised: bool) -> Policy:
        assert spec.actions is not None, "a source of simulators says which actions there are"
        if spec.actions.discrete and config.init_std != cls.Config.init_std:
            raise ConfigError(
                f"net.init_std: {config.init_std} has no effect: the source's {spec.actions.size} actions are "
                f"discrete; leave it at {cls.Config.init_std}"
            )
        net = cls(config, spec.input_shape, spec.outputs if head else None, normalised=normalised)
        net.distribution, net.numbers = distribution_of(spec.actions), 0 if spec.actions.discrete else spec.actions.size
        return net

    def init_head(self, rng: np.random.Generator, features: int) -> Params:
        """Small weights, so that a first policy prefers hardly any action."""
        if self.outputs is None:
            return {}
        weight = torch.from_numpy(rng.normal(0.0, 0.01, size=(self.outputs - self.numbers, features)))
        leaves = {f"{HEAD}weight": weight, f"{HEAD}bias": torch.zeros(len(weight))}
        std = torch.full((self.numbers,), float(self.config.init_std), dtype=torch.float64)
        return leaves | ({LOG_STD: std.log()} if self.numbers else {})

    def read_out(self, params: Params, features: Tensor) -> Tensor:
        outputs = super().read_out(params, features)
        if not self.numbers or self.outputs is None:
            return outputs
        return torch.cat([outputs, params[LOG_STD].expand_as(outputs)], -1)
