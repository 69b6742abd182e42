"""iMAML: the meta-gradient by the implicit function theorem at the end of the inner loop, independent of its path.

Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients, arXiv 1909.04630.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from pipeline.core.bounds import Divisor, InnerSteps, Rate
from pipeline.core.effects import OnlyWith
from pipeline.core.inner import SGD, hessian_free, iterate
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Params
from pipeline.families.gradient import GradientBased, Implicit


@dataclass(frozen=True)
class IMAMLConfig:
    """The inner loop, and the solver of the implicit gradient.

    Attributes:
        inner_lr: Rate of an inner step of ``gradient``, on the *mean* support loss; ``hessian_free`` has no rate.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        proximal: Lambda: how strongly phi is pulled towards theta.
        solver_steps: Steps of conjugate gradient, in a ``hessian_free`` inner step too.
        inner_solver: What an inner step is; the paper has both.
    """

    inner_lr: Annotated[Rate, OnlyWith("inner_solver", "gradient")] = 0.01
    inner_steps: InnerSteps = 16
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 16
    proximal: Divisor = 2.0
    solver_steps: InnerSteps = 5
    inner_solver: Literal["gradient", "hessian_free"] = "gradient"


class IMAML(GradientBased):
    """phi* = argmin L_support(phi) + lambda/2 ‖phi - theta‖²; (I + H(phi*)/lambda) g = ∇L_query(phi*) (lemma 1).

    Only the end of the inner steps is kept, so any number of them needs the memory of one. The
    authors' code takes plain gradient steps and one proximal one, and solves with another operator; here both are as
    written in the paper. Metrics: how far phi is from the minimum (``inner_gradient``, relative to the query's) and g
    from the solution (``solver_residual``).
    """

    Config: ClassVar[type[IMAMLConfig]] = IMAMLConfig
    about: ClassVar[About] = About("optimisation", "Rajeswaran et al. 2019, arXiv 1909.04630")
    drops_in_steps = True

    meta_gradient = Implicit(IMAMLConfig.proximal, IMAMLConfig.solver_steps)

    def __init__(self, config: IMAMLConfig, model: Network, loss: LossFunction) -> None:
        self.meta_gradient = Implicit(config.proximal, config.solver_steps)
        super().__init__(config, model, loss)

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        fit, weight, centre = self.support_loss(support, context), self.config.proximal, theta["model"]

        def loss(phi: Params, j: int) -> Tensor:
            distance = sum(((phi[name] - value) ** 2).sum() for name, value in centre.items())
            return fit(phi, j) + 0.5 * weight * distance

        if self.config.inner_solver == "hessian_free":
            return hessian_free(loss, centre, self.steps(context), self.config.solver_steps)
        return iterate(loss, centre, self.steps(context), SGD(self.config.inner_lr), first_order=True)
