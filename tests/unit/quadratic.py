"""Quadratic tasks: the smallest problems on which every update rule has a closed form.

A bowl is ½(theta - c)ᵀH(theta - c). Its examples are the rows of R, where RᵀR = H, with targets R c: under the loss
½‖outputs - targets‖² a network whose outputs are R theta descends exactly that bowl.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.algorithms.maml import MAML
from pipeline.algorithms.reptile import Reptile
from pipeline.core.algorithm import Algorithm
from pipeline.core.flat import Layout
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch, Context, MetaParams, Params, Phase, Score, Task
from pipeline.engine.interfaces import Chunk
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Normaliser

D = 4


class Bowl(NamedTuple):
    """½(theta - c)ᵀH(theta - c)."""

    H: Tensor
    c: Tensor

    def gradient(self, theta: Tensor) -> Tensor:
        return self.H @ (theta - self.c)

    def contraction(self, rate: float, steps: int) -> Tensor:
        """P = (I - rate H)^steps, so that theta ends at c + P(theta - c)."""
        step = torch.eye(len(self.c), dtype=self.H.dtype) - rate * self.H
        return torch.linalg.matrix_power(step, steps)

    def batch(self) -> Batch:
        root = torch.linalg.cholesky(self.H).T
        return Batch(root, root @ self.c)


def bowl(rng: np.random.Generator, size: int = D) -> Bowl:
    """Eigenvalues in [0.3, 2]: curved everywhere, and contracting for rates below 1."""
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    curvature = basis * rng.uniform(0.3, 2.0, size) @ basis.T
    return Bowl(torch.from_numpy(curvature), torch.from_numpy(rng.normal(size=size)))


class Linear(Net):
    """Outputs x · theta."""

    def __init__(self, config: Any, input_shape: tuple[int, ...], outputs: int | None, *, normalised: bool) -> None:
        self.size, self.outputs = input_shape[0], None

    def init(self, rng: np.random.Generator) -> Params:
        return {"w": torch.from_numpy(rng.normal(size=self.size))}

    def embed(self, params: Params, x: Tensor, normalise: Normaliser) -> Tensor:
        return x @ params["w"]


def half_square(outputs: Tensor, y: Tensor) -> Score:
    loss = (outputs - y).square().sum() / 2
    return Score(loss, {"loss": loss.detach()})


def maml(rate: float, steps: int, *, first_order: bool = False) -> MAML:
    model = NormalisedNet(Linear(None, (D,), None, normalised=False), "none", (D,))
    return MAML(MAML.Config(rate, steps, steps, first_order), model, half_square)


def reptile(rate: float, steps: int, *, batch: int = D) -> Reptile:
    """With SGD; the default batch is a whole bowl, so that every inner step sees all of it."""
    model = NormalisedNet(Linear(None, (D,), None, normalised=False), "none", (D,))
    return Reptile(Reptile.Config(rate, steps, batch, steps, batch, "sgd"), model, half_square)


def adapted(
    algorithm: Any, theta: Tensor, support: Batch, noise: Params | None = None, phase: Phase = "train"
) -> Tensor:
    context = Context(0, phase, 1, noise or {})
    return algorithm.adapt({"model": {"w": theta}}, support, context).phi["w"].detach()


class Bowls:
    """A source: task ``number`` of a step adapts to one bowl and is judged by another, or by the same one."""

    Config: ClassVar[Any] = None
    splits = ("train", "val", "test")
    fingerprint = "bowls"

    def __init__(self, *, same: bool = False, weighted: bool = False) -> None:
        self.same, self.weighted = same, weighted

    def spec(self) -> Spec:
        return Spec(Batch, (D,), 1, "values", "mean_squared_error")

    def pair(self, ticket: Ticket) -> tuple[Bowl, Bowl]:
        rng = ticket.rng("task")
        support = bowl(rng)
        return support, support if self.same else bowl(rng)

    def sample(self, ticket: Ticket) -> Task[Batch]:
        support, query = self.pair(ticket)
        weight = 1.0 + ticket.number % 3 if self.weighted else 1.0
        return Task(ticket.id, support.batch(), query.batch(), weight=weight)


SHAPES = TaskShapes(TaskShape(), TaskShape())
FLOAT64 = Numerics(dtype="float64", device="cpu", threads=1, vectorise=True)
LOOPED = Numerics(dtype="float64", device="cpu", threads=1, vectorise=False)


def tickets(count: int, step: int = 1) -> tuple[Ticket, ...]:
    return tuple(Ticket(5, "train", "train", step, number) for number in range(count))


def worker(algorithm: Algorithm[Any, Any], source: Any, numerics: Numerics = FLOAT64, chunk_size: int = 4) -> Worker:
    layout = Layout.of(algorithm.init(np.random.default_rng(0)), numerics.torch_dtype)
    return Worker(algorithm, source, layout, numerics, chunk_size)


def mean_gradient(
    algorithm: Algorithm[Any, Any], source: Any, theta: Tensor, asked: Sequence[Ticket], numerics: Numerics = FLOAT64
) -> Tensor:
    """What a worker answers for one chunk of these tasks, divided by the sum of their weights."""
    contribution, _ = worker(algorithm, source, numerics).learn(theta.numpy(), Chunk(asked[0].step, 0, tuple(asked)))
    return torch.from_numpy(contribution.gradient) / contribution.weight


def vector(seed: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=D))


def as_theta(values: Tensor) -> MetaParams:
    return {"model": {"w": values}}
