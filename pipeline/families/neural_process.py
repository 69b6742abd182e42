"""Neural processes code a support set and answer each query with a Gaussian, given the code.

The recipe's network embeds inputs, for the encoder and the decoder alike. An encoder reads each support point with its
value; what it gives is averaged, so that neither the order nor the number of points matters. The decoder answers with a
mean and a deviation that is at least ``floor``: that bounds the log-likelihood by -log(floor · sqrt(2π)) a point.

Shapes: N support, Q query, D code, L latent, K samples, Y numbers in a value.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, final

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.algorithm import Differentiable
from pipeline.core.bounds import Width
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LossFunction, log_gaussian, log_mean_exp
from pipeline.core.network import Adapted, Network
from pipeline.core.types import Context, MetaParams, Needs, Params, Phase, Points, Score, Task
from pipeline.nets.coding import Perceptron

PER_EXAMPLE = ("none", "layer", "group")


@dataclass(frozen=True, kw_only=True)
class NeuralProcessConfig:
    """Encoder and decoder.

    Attributes:
        width: Of a code, and of hidden layers.
        encoder_layers: Hidden layers of the encoder.
        decoder_layers: Hidden layers of the decoder.
        floor: The smallest deviation of an answer. Published are 0.1, which caps the log-likelihood at 1.384 nats.
        answer_support: Whether training answers the support points too, as the published code does.
    """

    width: Width = 128
    encoder_layers: Annotated[int, Gt(0), Lt(17)] = 3
    decoder_layers: Annotated[int, Gt(0), Lt(17)] = 3
    floor: Annotated[float, Gt(0), Lt(1)] = 0.001
    answer_support: bool = True


class Coded(Protocol):
    """A code of a support set, with the weights that answer from it."""

    @property
    def phi(self) -> Params: ...


E = TypeVar("E", bound=Coded)


class NeuralProcess(Differentiable[Points, E]):
    """Each method brings its code and what it adds to an input before it is decoded.

    Raises:
        ConfigError: the network normalises over examples, which would let padding and other queries be seen.
    """

    needs: ClassVar[Needs] = Needs(data=(Points,), targets=("values",), head=True)

    def __init__(self, config: Any, model: Network, loss: LossFunction) -> None:
        super().__init__(config, model.body(), loss)
        if model.mode not in PER_EXAMPLE:
            raise ConfigError(
                f"normalisation: {model.mode} takes statistics over examples, of which some are padding here; use "
                "none, layer or group"
            )
        self.values, self.features = model.net.outputs, model.net.features
        self.encoder = Perceptron(
            "encoder", (self.features, self.values), config.width, config.encoder_layers, config.width
        )
        self.decoder = Perceptron(
            "decoder", (self.features, self.code_width()), config.width, config.decoder_layers, 2 * self.values
        )

    def code_width(self) -> int:
        """How many numbers the decoder is given beside an embedded input."""
        return int(self.config.width)

    @abstractmethod
    def codes(self, adapted: E, z_QF: Tensor) -> Tensor:
        """What the decoder is given beside each of Q embedded inputs, for each of K samples: [K, Q, code_width]."""

    def parts(self) -> tuple[Perceptron, ...]:
        """The networks beside the recipe's."""
        return (self.encoder, self.decoder)

    @final
    def init(self, rng: np.random.Generator) -> MetaParams:
        model = self.model.init(rng)
        for part in self.parts():
            model |= part.init(rng)
        return {"model": model}

    def draw(self, rng: np.random.Generator, task: Task[Points], phase: Phase) -> Params:
        return self.model.draw(rng, len(task.support.x) + len(task.query.x), phase)

    def weights(self, theta: MetaParams, context: Context) -> Params:
        """The weights, with this task's dropout masks."""
        return theta["model"] | self.model.masks(context.noise)

    def embed(self, phi: Params, x: Tensor) -> Tensor:
        """[N, features]."""
        return self.model.predict(Adapted(phi, {}), x)

    def encoded(self, phi: Params, points: Points) -> tuple[Tensor, Tensor]:
        """The embedded inputs [N, features] and the codes [N, D] of single points."""
        z_NF = self.embed(phi, points.x)
        return z_NF, self.encoder(phi, torch.cat([z_NF, points.y], 1))

    def decoded(self, adapted: E, x: Tensor) -> Tensor:
        """Means and deviations [K, Q, 2·Y]."""
        z_QF = self.embed(adapted.phi, x)
        code_KQC = self.codes(adapted, z_QF)
        inputs = torch.cat([z_QF.expand(len(code_KQC), -1, -1), code_KQC], -1)
        mean, raw = self.decoder(adapted.phi, inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2]).chunk(2, -1)
        floor = self.config.floor
        return torch.cat([mean, floor + (1 - floor) * F.softplus(raw)], -1)

    def predict(self, adapted: E, x: Tensor) -> Tensor:
        """Means and deviations [Q, 2·Y] of the mixture over the samples."""
        mean, deviation = self.decoded(adapted, x).chunk(2, -1)
        centre = mean.mean(0)
        variance = deviation.square().mean(0) + (mean - centre).square().mean(0)
        return torch.cat([centre, variance.sqrt()], -1)

    def score(self, adapted: E, query: Points, context: Context) -> Score:
        """The log-likelihood of a query point: marginal, with each point by itself, and joint, with one sample for all.

        Of K samples, log p is log((1/K) sum p). The loss is the marginal one. ``mse`` is that of the mean answer.
        """
        answers = self.decoded(adapted, query.x)
        log_p_KQ = log_gaussian(answers, query.y) * query.mask
        count = query.mask.sum()
        marginal = (log_mean_exp(log_p_KQ) * query.mask).sum() / count
        joint = log_mean_exp(log_p_KQ.sum(1)) / count
        off = answers.chunk(2, -1)[0].mean(0) - query.y
        mse = (off.square().mean(1) * query.mask).sum() / count
        metrics = {"log_likelihood": marginal, "log_likelihood_joint": joint, "mse": mse}
        return Score(-marginal, {name: metric.detach() for name, metric in metrics.items()})

    def objective(self, theta: MetaParams, task: Task[Points], context: Context) -> Score:
        return self.score(self.adapt(theta, task.support, context), self.asked(task), context)

    def asked(self, task: Task[Points]) -> Points:
        """The points that training answers."""
        return together(task.support, task.query) if self.config.answer_support else task.query


def together(support: Points, query: Points) -> Points:
    """Both sets as one."""
    x, y, mask = (torch.cat(pair) for pair in zip(support, query, strict=True))
    return Points(x, y, mask)
