"""Neural processes with a latent variable z for a task: all answers of one sample of z agree with each other.

Shapes: N support, Q query, D code, L latent, K samples.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from pipeline.core.bounds import Width
from pipeline.core.effects import NotWith, OnlyWith
from pipeline.core.losses import LossFunction, log_gaussian
from pipeline.core.network import Network
from pipeline.core.types import Context, MayChange, MetaParams, Params, Phase, Points, Score, Task
from pipeline.families.neural_process import Coded, NeuralProcess, NeuralProcessConfig, together
from pipeline.nets.coding import Perceptron, masked_mean


@dataclass(frozen=True, kw_only=True)
class LatentProcessConfig(NeuralProcessConfig):
    """Encoder and decoder, and a latent variable.

    Attributes:
        latent: Numbers in the latent variable z.
        prior: What z is drawn from at the test: ``support``, the published q(z|support set), or ``standard``, N(0, 1)
            for every task, which tells the decoder nothing of the task.
        samples: Samples of z at evaluation and in serving.
        objective: What training ascends: the published ``bound``, with one sample of z, or the ``likelihood`` of each
            point as evaluation has it.
        train_samples: Samples of z in training whose likelihoods are averaged.
    """

    latent: Width = 128
    prior: Literal["support", "standard"] = "support"
    samples: Annotated[int, Ge(1), Le(1 << 12), MayChange()] = 32
    objective: Annotated[Literal["bound", "likelihood"], NotWith(prior=("standard",))] = "bound"
    train_samples: Annotated[int, Ge(1), Le(1 << 12), OnlyWith("objective", "likelihood")] = 4


class Latent(NamedTuple):
    """A diagonal Gaussian over z: mean [L] and deviation [L]."""

    mean: Tensor
    deviation: Tensor

    def divergence(self, of: Latent) -> Tensor:
        """KL(self ‖ of) in nats, a scalar."""
        ratio = self.deviation / of.deviation
        return ((ratio.square() + ((self.mean - of.mean) / of.deviation).square() - 1) / 2 - ratio.log()).sum()


class Sampled(Coded, Protocol):
    """A code with samples of z [K, L]."""

    @property
    def z(self) -> Tensor: ...


S = TypeVar("S", bound=Sampled)


class LatentProcess(NeuralProcess[S]):
    """p(y|x) = N(g(x, r(x), z)) with z ~ q(z|s), s = mean_i of a second code. It ascends the evidence's lower bound

        E_{q(z|all)} [sum log p(y|x, z)] - KL(q(z|all) ‖ q(z|support)),

    divided by the number of points that are answered, where *all* are support and query points together (Garnelo et
    al., arXiv 1807.01622, eq. 7). Each method brings r.

    Where ``objective`` is ``likelihood``, it ascends the mean over points of log((1/K) sum_k p(y|x, z_k)) with
    z_k ~ q(z|support), and z is never inferred from what is asked. Foong et al. (arXiv 2007.01332) multiply over points
    before the mean over samples.

    Where ``prior`` is ``standard``, z ~ N(0, 1) takes the place of both q, and there is no divergence.
    """

    def __init__(self, config: LatentProcessConfig, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model, loss)
        self.latent_encoder = Perceptron(
            "latent_encoder", (self.features, self.values), config.width, config.encoder_layers, config.width
        )
        self.to_latent = Perceptron("latent", (config.width,), config.width, 1, 2 * config.latent)

    @property
    def averaged(self) -> bool:
        """Whether training averages the likelihoods of samples."""
        return bool(self.config.prior == "support" and self.config.objective == "likelihood")

    def parts(self) -> tuple[Perceptron, ...]:
        inferred = (self.latent_encoder, self.to_latent) if self.config.prior == "support" else ()
        return (*super().parts(), *inferred)

    def code_width(self) -> int:
        return int(self.config.width + self.config.latent)

    def draw(self, rng: np.random.Generator, task: Task[Points], phase: Phase) -> Params:
        trained = self.config.train_samples if self.averaged else 1
        samples = trained if phase == "train" else self.config.samples
        z = torch.from_numpy(rng.normal(size=(samples, self.config.latent)))
        return {"z": z} | super().draw(rng, task, phase)

    def latent(self, phi: Params, points: Points) -> Latent:
        """q(z|points), with deviations between 0.1 and 1, as published."""
        z_NF = self.embed(phi, points.x)
        codes = self.latent_encoder(phi, torch.cat([z_NF, points.y], 1))
        mean, raw = self.to_latent(phi, masked_mean(codes, points.mask).unsqueeze(0))[0].chunk(2)
        return Latent(mean, 0.1 + 0.9 * torch.sigmoid(raw))

    @abstractmethod
    def coded(self, phi: Params, support: Points, z: Tensor) -> S:
        """The code of a support set with these samples of z."""

    @abstractmethod
    def deterministic(self, adapted: S, z_QF: Tensor) -> Tensor:
        """r: what is known of each query without z, [D] or [Q, D]."""

    def adapt(self, theta: MetaParams, support: Points, context: Context) -> S:
        z, phi = context.noise["z"], self.weights(theta, context)
        if self.config.prior == "support":
            q = self.latent(phi, support)
            z = q.mean + q.deviation * z
        return self.coded(phi, support, z)

    def codes(self, adapted: S, z_QF: Tensor) -> Tensor:
        samples, queries = len(adapted.z), len(z_QF)
        code = self.deterministic(adapted, z_QF).expand(samples, queries, -1)
        return torch.cat([code, adapted.z.unsqueeze(1).expand(-1, queries, -1)], -1)

    def objective(self, theta: MetaParams, task: Task[Points], context: Context) -> Score:
        if self.config.prior == "standard" or self.averaged:
            return super().objective(theta, task, context)
        both, asked, phi = together(task.support, task.query), self.asked(task), self.weights(theta, context)
        q, prior = self.latent(phi, both), self.latent(phi, task.support)
        adapted = self.coded(phi, task.support, q.mean + q.deviation * context.noise["z"])
        log_p = (log_gaussian(self.decoded(adapted, asked.x), asked.y) * asked.mask).sum(1).mean()
        count, divergence = asked.mask.sum(), q.divergence(prior)
        return Score(
            (divergence - log_p) / count,
            {"log_likelihood": (log_p / count).detach(), "divergence": (divergence / count).detach()},
        )
