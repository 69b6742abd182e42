"""MAML over a recurrent model: the support set is read as a sequence, then adapted to from the state this leaves.

The inner loop is MAML's (Finn, Abbeel, Levine, arXiv 1703.03400). The reading is that of memory-based methods: support
examples come with their labels, queries without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import SGD, beside, iterate
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params, Phase, Task
from pipeline.families.gradient import GradientBased
from pipeline.nets.cells import CellName
from pipeline.nets.model import NormalisedNet
from pipeline.nets.stateful import Stateful


@dataclass(frozen=True)
class RecurrentMAMLConfig:
    """The cell that reads the support set, and MAML's inner loop.

    Attributes:
        cell: The recurrent cell.
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
    """

    cell: CellName = "lstm"
    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10


class RecurrentMAML(GradientBased):
    """h = the cell's state after the support set, read from zeros; phi_0 = theta and
    phi_{j+1} = phi_j - alpha ∇L_support(phi_j; h); the outer loop descends L_query(phi_k; h).

    One step of the same cell answers an example from h: each query, and without its label each support example again.
    h is read once, with theta, and stays as it is; the outer gradient flows through the reading as through the inner
    steps. So the trace begins with a memory network alone, before any descent.
    """

    Config: ClassVar[type[RecurrentMAMLConfig]] = RecurrentMAMLConfig
    about: ClassVar[About] = About("optimisation", "of our own, after Finn, Abbeel, Levine 2017, arXiv 1703.03400")
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots", "values"), head=True)

    def __init__(self, config: RecurrentMAMLConfig, model: Network, loss: LossFunction) -> None:
        self.net = Stateful(model.net, config.cell)
        self.body = model
        super().__init__(config, NormalisedNet(self.net, model.mode, model.input_shape), loss)

    def extra_noise(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        """``order`` [N]: in which the support set is read; sources sort it by class."""
        return {"order": torch.from_numpy(rng.permutation(len(task.support.y)))}

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        phi = theta["model"]
        state = self._read(phi | self.model.masks(context.noise), support, context.noise["order"])
        loss, rule = beside(state, self.support_loss(support, context)), SGD(self.config.inner_lr)
        for weights in iterate(loss, phi, self.steps(context), rule, first_order=False):
            yield weights | state

    def _read(self, phi: Params, support: Batch, order: Tensor) -> Params:
        features, y = self.body.embed(phi, support.x), support.y
        labels = y if y.is_floating_point() else torch.eye(self.net.label, dtype=features.dtype, device=y.device)[y]
        return self.net.read(phi, features[order].unbind(0), labels[order].unbind(0))
