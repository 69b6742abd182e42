"""Meta-LSTM: an LSTM whose cell state is the learner's weights; its gates are the learned rule, its start is learned.

Ravi, Larochelle: Optimization as a Model for Few-Shot Learning, ICLR 2017 (OpenReview rJY0-Kcll), §3.

Shapes: P weights of the learner, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import InnerSteps, Width
from pipeline.core.flat import split
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params, Task
from pipeline.families.learned_optimizer import LearnedUpdateRule, State, TruncatedBackprop, log_and_sign
from pipeline.nets.cells import LSTM

P_LOG = 10.0
SMALL = 0.01
"""Weights start within ± this."""
GATES = {"forget": (4.0, 5.0), "input": (-5.0, -4.0)}
"""Where their biases start: near gradient descent at a rate of 0.01."""


@dataclass(frozen=True)
class MetaLSTMConfig:
    """The inner loop. Each step sees the whole support set.

    Published for 5 ways are 8 steps for 5 shots and 12 for one.

    Attributes:
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        cell_size: Width of the LSTM's state.
        detach_every: Inner steps in a segment, after which the LSTM's state becomes a constant.
    """

    inner_steps: InnerSteps = 8
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 8
    cell_size: Width = 20
    detach_every: InnerSteps = 20


class MetaLSTM(LearnedUpdateRule):
    """phi_t = f ∘ phi_{t-1} - i ∘ ∇L(phi_{t-1}); i, f = σ(W [h, phi_{t-1}, own last value] + b); phi_0 is ``model``.

    h [P, H] comes from an LSTM on loss and gradient. A segment is judged by the query loss after its last step: with
    as many steps as are published there is one. Others keep a gate's value before σ, and divide the gradient of a mean
    loss by the batch once more; here both are as in the paper.
    """

    Config: ClassVar[type[MetaLSTMConfig]] = MetaLSTMConfig
    meta_gradient = TruncatedBackprop("the gradient of the optimiser and of the initialisation")
    about: ClassVar[About] = About("learned optimiser", "Ravi, Larochelle 2017, OpenReview rJY0-Kcll")

    def __init__(self, config: MetaLSTMConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.cell = LSTM("lstm", 4, config.cell_size)

    def extra_groups(self, rng: np.random.Generator, model: Params) -> MetaParams:
        def uniform(shape: tuple[int, ...], low: float = -SMALL, high: float = SMALL) -> Tensor:
            return torch.from_numpy(np.asarray(rng.uniform(low, high, shape)))

        optimizer = {name: uniform(tuple(leaf.shape)) for name, leaf in self.cell.init(rng).items()}
        for gate, (low, high) in GATES.items():
            optimizer[f"{gate}/weight"] = uniform((self.config.cell_size + 2,))
            optimizer[f"{gate}/bias"] = uniform((), low, high)
        return {"optimizer": optimizer}

    def start(self, theta: MetaParams, context: Context) -> Params:
        return theta["model"]

    def initial_state(self, phi: Tensor) -> State:
        nothing = torch.zeros_like(phi)
        return self.cell.start(phi.unsqueeze(-1)) | dict.fromkeys(GATES, nothing)

    def step(self, optimizer: Params, state: State) -> State:
        phi, gradient = state["phi"], state["gradient"]
        loss_P2 = log_and_sign(state["loss"], P_LOG).expand(len(phi), 2)
        seen_P4 = torch.cat([loss_P2, log_and_sign(gradient, P_LOG)], -1)
        hidden = self.cell(optimizer, seen_P4, {name: state[name] for name in ("h", "c")})

        def gate(name: str) -> Tensor:
            sees = torch.cat([hidden["h"], phi.unsqueeze(-1), state[name].unsqueeze(-1)], -1)
            return torch.sigmoid(sees @ optimizer[f"{name}/weight"] + optimizer[f"{name}/bias"])

        gates = {name: gate(name) for name in GATES}
        return hidden | gates | {"phi": gates["forget"] * phi - gates["input"] * gradient}

    def segment_loss(self, segment: Sequence[State], like: Params, task: Task[Batch], context: Context) -> Tensor:
        adapted = self.adapted(split(segment[-1]["phi"], like), task.support, context)
        return self.score(adapted, task.query, context).loss
