"""Adversarial few-shot classification: a classifier of a task's N classes and of fakes plays against their generator.

Zhang, Che, Ghahramani, Bengio, Song: MetaGAN: An Adversarial Approach to Few-Shot Learning, NeurIPS 2018.

The discriminator is a few-shot classifier with one more logit, the last, which is that of fakes. The generator is given
noise and a code of the support set, and never the query set.

Shapes: N ways, Q query, F fakes, Z latent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from pipeline.core.algorithm import A, Algorithm, Game
from pipeline.core.bounds import Rate, Width
from pipeline.core.effects import OnlyWith
from pipeline.core.losses import LossFunction
from pipeline.core.network import Network
from pipeline.core.types import Batch, Context, MetaParams, Params, Phase, Score, Task
from pipeline.nets.generator import Generator

GENERATOR = "generator"
"""The generator's group of theta."""
FAKES = "fakes"
"""The fakes among a task's random tensors."""


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The fakes, of which a task has as many as support examples.

    Attributes:
        fakes: What the fakes are: a ``generator``'s, or ``noise``: pixels uniform in [0, 1], or standard normal numbers
            where an input is no image. Without a generator nothing plays against the classifier.
        fake_weight: Weight of the two terms that tell real examples from fakes, in the classifier's loss.
        latent: Width of the generator's noise and of its code of a support set.
        width: Width of the generator's hidden layers, and channels of its smallest map.
    """

    fakes: Literal["generator", "noise"] = "generator"
    fake_weight: Rate = 1.0
    latent: Annotated[Width, OnlyWith("fakes", "generator")] = 32
    width: Annotated[Width, OnlyWith("fakes", "generator")] = 64


class Adversarial(Game[Batch, A]):
    """With p over N + 1 classes, the classifier descends (w is ``fake_weight``)

        L_D = E_query[L(y | x, y <= N) - w log p(y <= N | x)] - w E_z[log p(N + 1 | G(z, e(support)))],

    where L is the loss of the method without fakes, and the generator L_G = -E_z[log p(y <= N | G(z, e(support)))].
    Each has its own groups of theta; all but ``generator`` are the classifier's. Fakes are normalised apart from real
    examples: shared statistics of a batch would leak which of its examples are real. Answers have no fake class.
    """

    adapts_to_fakes: ClassVar[bool] = False
    """Whether the inner loop sees the fakes too. They are constants there, at evaluation and in serving as well."""

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.discriminator = self.make_discriminator(self._real_loss)
        self.state_groups = self.discriminator.state_groups
        generated = config.fakes == "generator"
        self.generator = Generator(model.input_shape, config.latent, config.width) if generated else None

    @abstractmethod
    def make_discriminator(self, loss: LossFunction) -> Algorithm[Batch, A]:
        """A method whose ``predict`` gives logits [Q, N + 1]; ``loss`` takes such logits of real examples."""

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        theta = self.discriminator.init(rng)
        return theta if self.generator is None else theta | {GENERATOR: self.generator.init(rng)}

    @final
    def draw(self, rng: np.random.Generator, task: Task[Batch], phase: Phase) -> Params:
        noise, count, shape = self.discriminator.draw(rng, task, phase), len(task.support.x), self.model.input_shape
        if phase != "train" and not self.adapts_to_fakes:
            return noise
        if self.generator is not None:
            return noise | {"z": torch.from_numpy(rng.normal(size=(count, self.config.latent)))}
        drawn = rng.random((count, *shape)) if len(shape) == 3 else rng.normal(size=(count, *shape))
        return noise | {FAKES: torch.from_numpy(drawn)}

    def fakes(self, theta: MetaParams, support: Batch, context: Context) -> Tensor:
        """The fakes [F, *input] of a task."""
        if self.generator is None:
            return context.noise[FAKES]
        return self.generator(theta[GENERATOR], context.noise["z"], support.x)

    def adapt(self, theta: MetaParams, support: Batch, context: Context) -> A:
        return self.discriminator.adapt(theta, support, self._beside_fakes(theta, support, context))

    def trace(self, theta: MetaParams, support: Batch, context: Context) -> Iterable[A]:
        return self.discriminator.trace(theta, support, self._beside_fakes(theta, support, context))

    def predict(self, adapted: A, x: Tensor) -> Tensor:
        """Logits [Q, N]: the fake class is no answer."""
        return self.discriminator.predict(adapted, x)[:, :-1]

    def score(self, adapted: A, query: Batch, context: Context) -> Score:
        return self.loss(self.predict(adapted, query.x), query.y)

    def losses(self, theta: MetaParams, task: Task[Batch], context: Context) -> tuple[dict[str, Tensor], Score]:
        fakes = self.fakes(theta, task.support, context)
        adapted = self.discriminator.adapt(theta, task.support, _with(context, fakes))
        score = self.discriminator.score(adapted, task.query, context)
        logits = self.discriminator.predict(adapted, fakes)
        of_model = score.loss + self.config.fake_weight * fake_loss(logits)
        stepped = (group for group in theta if group not in self.unstepped | {GENERATOR})
        losses = dict.fromkeys(stepped, of_model)
        if self.generator is not None:
            losses[GENERATOR] = generator_loss(logits)
        told = {"p_real_of_fakes": log_p_real(logits).detach().exp().mean()}
        return losses, score._replace(loss=of_model, metrics=score.metrics | told)

    def fold(self, theta: MetaParams, records: list[Params]) -> MetaParams:
        return self.discriminator.fold(theta, records)

    def _beside_fakes(self, theta: MetaParams, support: Batch, context: Context) -> Context:
        return _with(context, self.fakes(theta, support, context)) if self.adapts_to_fakes else context

    def _real_loss(self, logits: Tensor, y: Tensor) -> Score:
        """The classifier's loss of real examples [Q, N + 1]."""
        log_p, score = log_p_real(logits), self.loss(logits[:, :-1], y)
        told = {"p_real": log_p.detach().exp().mean()}
        return score._replace(loss=score.loss - self.config.fake_weight * log_p.mean(), metrics=score.metrics | told)


def _with(context: Context, fakes: Tensor) -> Context:
    return context._replace(noise=context.noise | {FAKES: fakes.detach()})


def log_p_real(logits: Tensor) -> Tensor:
    """log p(y <= N | x) = log(1 - p(N + 1 | x)) of logits [..., N + 1]."""
    return torch.logsumexp(logits[..., :-1], -1) - torch.logsumexp(logits, -1)


def fake_loss(logits: Tensor) -> Tensor:
    """The mean of -log p(N + 1 | x) over fakes: what the classifier descends."""
    return -torch.log_softmax(logits, -1)[..., -1].mean()


def generator_loss(logits: Tensor) -> Tensor:
    """The mean of -log p(y <= N | x) over fakes: what the generator descends.

    It does not saturate where the classifier is sure, as log p(N + 1 | x) does (Goodfellow et al., arXiv 1406.2661).
    """
    return -log_p_real(logits).mean()
