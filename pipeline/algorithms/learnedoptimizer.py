"""An LSTM as an optimiser, shared by all coordinates and trained on the sum of the losses along its trajectory.

Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, arXiv 1606.04474, §2.

Shapes: P weights of the learner, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import InnerSteps, Rate, Width
from pipeline.core.losses import LossFunction
from pipeline.core.network import DROPOUT, Network
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Phase, Task
from pipeline.families.learned_optimizer import LearnedUpdateRule, State, TruncatedBackprop, log_and_sign
from pipeline.nets.cells import LSTM

P_LOG = 10.0


@dataclass(frozen=True)
class LearnedOptimizerConfig:
    """The inner loop and the LSTM.

    Attributes:
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        cell_size: Width of the state of each of the two LSTM layers.
        preprocess: What the gradient goes through; the paper takes it as it is on quadratics, and its logarithm and
            sign on networks.
        output_scale: What an update is multiplied by, which keeps the first steps near 0.
        detach_every: Inner steps in a segment, after which the LSTM's state becomes a constant.
    """

    inner_steps: InnerSteps = 100
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 100
    cell_size: Width = 20
    preprocess: Literal["log_and_sign", "none"] = "log_and_sign"
    output_scale: Rate = 0.1
    detach_every: InnerSteps = 20


class LearnedOptimizer(LearnedUpdateRule):
    """phi_t = phi_{t-1} + scale · LSTM(∇L(phi_{t-1})); the outer loop descends Σ_t L(phi_t), L the support loss.

    The learner starts at random in each task, so ``optimizer`` is all there is in theta. A segment's loss is summed as
    L + ⟨∇L, phi_t⟩ with ∇L a constant: of the same value and derivative, and no graph of the learner is kept.
    """

    Config: ClassVar[type[LearnedOptimizerConfig]] = LearnedOptimizerConfig
    meta_gradient = TruncatedBackprop("the gradient of the optimiser")
    about: ClassVar[About] = About("learned optimiser", "Andrychowicz et al. 2016, arXiv 1606.04474")

    def __init__(self, config: LearnedOptimizerConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        inputs = 2 if config.preprocess == "log_and_sign" else 1
        self.cells = (LSTM("lower", inputs, config.cell_size), LSTM("upper", config.cell_size, config.cell_size))

    def initial_model(self, rng: np.random.Generator) -> Params:
        return {}

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        optimizer = {name: leaf for cell in self.cells for name, leaf in cell.init(rng).items()}
        bound = 1 / math.sqrt(self.config.cell_size)
        # No bias: it would move all coordinates alike, which the softmax of a linear learner does not see.
        optimizer["output/weight"] = torch.from_numpy(rng.uniform(-bound, bound, self.config.cell_size))
        return {"optimizer": optimizer}

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """The learner's weights before the first step."""
        return self.model.init(rng)

    def start(self, theta: MetaParams, context: Context) -> Params:
        return {name: leaf for name, leaf in context.noise.items() if not name.startswith(DROPOUT)}

    def initial_state(self, phi: Tensor) -> State:
        return _named([cell.start(phi.unsqueeze(-1)) for cell in self.cells])

    def step(self, optimizer: Params, state: State) -> State:
        gradient = state["gradient"]
        x = log_and_sign(gradient, P_LOG) if self.config.preprocess == "log_and_sign" else gradient.unsqueeze(-1)
        states = []
        for layer, cell in enumerate(self.cells):
            states.append(cell(optimizer, x, {name: state[f"{layer}/{name}"] for name in ("h", "c")}))
            x = states[-1]["h"]
        update = self.config.output_scale * (x @ optimizer["output/weight"])
        return _named(states) | {"phi": state["phi"] + update}

    def segment_loss(self, segment: Sequence[State], like: Params, task: Task[Batch], context: Context) -> Tensor:
        losses = [one["loss"] + (one["gradient"] * (one["phi"] - one["phi"].detach())).sum() for one in segment]
        return torch.stack(losses).sum()


def _named(states: Sequence[State]) -> State:
    return {f"{layer}/{name}": value for layer, state in enumerate(states) for name, value in state.items()}
