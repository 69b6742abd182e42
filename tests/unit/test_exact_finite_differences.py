"""The gradient of MAML through conv-4 with batch statistics, against central finite differences in float64.

Both speeds must be right: torch's own batch normalisation is right in a loop and wrong under ``vmap``, in its second
derivatives alone, and training with it still looks fine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from pipeline.algorithms.maml import MAML
from pipeline.core.flat import Layout
from pipeline.core.losses import cross_entropy
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.engine.interfaces import Chunk
from pipeline.engine.numerics import Numerics
from pipeline.engine.worker import Worker
from pipeline.nets.conv4 import Conv4
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import EPSILON, Mode

pytestmark = pytest.mark.usefixtures("torch_threads")

SHAPE, WAYS, EACH, STEPS, NUDGE = (1, 16, 16), 2, 3, 2, 1e-6
CHUNK = Chunk(1, 0, tuple(Ticket(3, "train", "train", 1, number) for number in range(2)))
LOOPED = Numerics(dtype="float64", device="cpu", threads=1, vectorise=False)
VECTORISED = replace(LOOPED, vectorise=True)


class Noise:
    """Images of noise, brighter in one class than in the other."""

    Config: ClassVar[Any] = None
    splits = ("train", "val", "test")
    fingerprint = "noise"

    def spec(self) -> Spec:
        return Spec(Batch, SHAPE, WAYS, "slots", "cross_entropy")

    def sample(self, ticket: Ticket) -> Task[Batch]:
        rng, y = ticket.rng("task"), torch.arange(WAYS).repeat_interleave(EACH)
        support, query = (torch.from_numpy(rng.normal(size=(len(y), *SHAPE))) + 0.5 * y.view(-1, 1, 1, 1) for _ in "sq")
        return Task(ticket.id, Batch(support, y), Batch(query, y), WAYS)


class Fused:
    """torch's own batch normalisation, which ruff refuses outside of tests."""

    moments: ClassVar[Params] = {}

    def __call__(self, name: str, h: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        return F.batch_norm(h, None, None, scale, shift, training=True, eps=EPSILON)


class FusedModel(NormalisedNet):
    def _own_statistics(self) -> Any:
        return Fused()


STRIDE, POOL = Conv4.Config(2, "stride", "mean"), Conv4.Config(2, "pool", "flatten")


def maml(mode: Mode, model: type[NormalisedNet] = NormalisedNet, config: Any = STRIDE) -> MAML:
    net = Conv4(config, SHAPE, WAYS, normalised=True)
    return MAML(MAML.Config(inner_lr=0.4, inner_steps=STEPS), model(net, mode, SHAPE), cross_entropy)


def gradient(algorithm: MAML, theta: MetaParams, numerics: Numerics) -> MetaParams:
    layout = Layout.of(theta, torch.float64)
    worker = Worker(algorithm, Noise(), layout, numerics, len(CHUNK.tickets))
    contribution, report = worker.learn(layout.pack(theta).numpy(), CHUNK)
    assert report.used == len(CHUNK.tickets)
    return layout.unpack(torch.from_numpy(contribution.gradient))


def by_differences(algorithm: MAML, theta: MetaParams, name: str, direction: Tensor) -> float:
    tasks = [Noise().sample(ticket) for ticket in CHUNK.tickets]
    losses = []
    for nudge in (NUDGE, -NUDGE):
        nearby = {"model": theta["model"] | {name: theta["model"][name] + nudge * direction}}
        losses.append(
            sum(algorithm.objective(nearby, task, Context(1, "train", WAYS, {})).loss.item() for task in tasks)
        )
    return (losses[0] - losses[1]) / (2 * NUDGE)


def directions(theta: MetaParams) -> Params:
    """One for each leaf, with no coordinate left out."""
    rng = np.random.default_rng(0)
    return {name: torch.from_numpy(rng.normal(size=leaf.shape)) for name, leaf in theta["model"].items()}


@pytest.fixture(scope="module")
def theta() -> MetaParams:
    # Nets may draw theta in any dtype; the store casts it, as here.
    drawn = maml("support").init(np.random.default_rng(5))
    return {"model": {name: leaf.double() for name, leaf in drawn["model"].items()}}


def along(of: MetaParams, ways: Params) -> Tensor:
    return torch.stack([(of["model"][name] * way).sum() for name, way in ways.items()])


@pytest.mark.parametrize(
    ("mode", "config"),
    [
        ("support", STRIDE),
        pytest.param("transductive", STRIDE, marks=pytest.mark.slow),  # in the contract too, in each family
        pytest.param("transductive", POOL, marks=pytest.mark.slow),  # as test_nets has it without an inner loop
        pytest.param("one_query", POOL, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_through_batch_statistics_is_that_of_finite_differences(theta, mode, config):
    algorithm, ways = maml(mode, config=config), directions(theta)
    expected = torch.tensor([by_differences(algorithm, theta, *one) for one in ways.items()], dtype=torch.float64)
    looped, vectorised = gradient(algorithm, theta, LOOPED), gradient(algorithm, theta, VECTORISED)
    assert_close(along(looped, ways), expected, rtol=1e-6, atol=1e-8)
    assert_close(along(vectorised, ways), expected, rtol=1e-6, atol=1e-8)
    for name, leaf in looped["model"].items():
        assert leaf.abs().max() > 1e-4, f"{name} is dead: the test would not notice a wrong gradient"
        assert_close(vectorised["model"][name], leaf, rtol=1e-10, atol=1e-10)


def test_torch_s_own_batch_norm_is_wrong_under_vmap(theta):
    """Why it is banned. When this fails, torch has mended it: see whether the ban can go."""
    fused, ways = maml("transductive", FusedModel), directions(theta)
    ours = gradient(maml("transductive"), theta, VECTORISED)
    right, wrong = gradient(fused, theta, LOOPED), gradient(fused, theta, VECTORISED)
    assert_close(along(right, ways), along(ours, ways), rtol=1e-8, atol=1e-10)
    worst = (along(wrong, ways) - along(ours, ways)).abs().max()
    assert worst > 1e-3 * along(ours, ways).abs().max()
