"""MetaGAN over MAML: the inner loop learns to tell a task's support set from its fakes too.

Zhang, Che, Ghahramani, Bengio, Song: MetaGAN: An Adversarial Approach to Few-Shot Learning, NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from pipeline.core.bounds import InnerSteps, Rate
from pipeline.core.inner import SGD, InnerLoss, iterate
from pipeline.core.losses import LossFunction
from pipeline.core.network import Adapted
from pipeline.core.recompute import Partial
from pipeline.core.types import About, Batch, Context, MayChange, MetaParams, Needs, Params
from pipeline.families.adversarial import FAKES, Adversarial, AdversarialConfig, fake_loss
from pipeline.families.gradient import GradientBased
from pipeline.nets.fake_class import WithFakeClass
from pipeline.nets.model import NormalisedNet


@dataclass(frozen=True, kw_only=True)
class MetaGANMAMLConfig(AdversarialConfig):
    """MAML's inner loop, and the fakes.

    Attributes:
        inner_lr: Rate of an inner step, on the *mean* support loss.
        inner_steps: Inner steps in training.
        eval_inner_steps: Inner steps at evaluation and in serving.
        first_order: Leave out second derivatives.
    """

    inner_lr: Rate = 0.01
    inner_steps: InnerSteps = 1
    eval_inner_steps: Annotated[InnerSteps, MayChange()] = 10
    first_order: bool = False


class Discriminator(GradientBased):
    """MAML with a head of N + 1 outputs, whose inner loss has the fakes beside the support set."""

    def inner_trajectory(self, theta: MetaParams, support: Batch, context: Context) -> Iterator[Params]:
        loss = Partial(self._loss_beside_fakes, (self.support_loss(support, context), context.noise))
        rule, first_order = SGD(self.config.inner_lr), self.config.first_order
        return iterate(loss, theta["model"], self.steps(context), rule, first_order=first_order)

    def _loss_beside_fakes(self, of_real: InnerLoss, noise: Params, phi: Params, j: int) -> Tensor:
        logits, _ = self.model.forward_own_statistics(phi | self.model.masks(noise), noise[FAKES])
        return of_real(phi, j) + self.config.fake_weight * fake_loss(logits)


class MetaGANMAML(Adversarial[Adapted]):
    """phi_{j+1} = phi_j - alpha ∇L_D(phi_j) on support set and fakes; L_D of query set and fakes at phi_k is descended.

    The generator descends L_G at phi_k as a constant: it does not learn to make the inner loop fail.
    """

    Config: ClassVar[type[MetaGANMAMLConfig]] = MetaGANMAMLConfig
    needs: ClassVar[Needs] = Needs(data=(Batch,), targets=("slots",), head=True)
    about: ClassVar[About] = About("optimisation", "Zhang et al. 2018, NeurIPS")
    adapts_to_fakes: ClassVar[bool] = True

    def make_discriminator(self, loss: LossFunction) -> Discriminator:
        model = NormalisedNet(WithFakeClass(self.model.net), self.model.mode, self.model.input_shape)
        return Discriminator(self.config, model, loss)
