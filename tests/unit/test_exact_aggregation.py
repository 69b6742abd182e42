"""The outer step depends on the tasks alone, not on workers, chunks or who came first."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.core.flat import sha256
from pipeline.core.types import Contribution
from pipeline.engine.evaluate import chunks_of
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from tests.unit.quadratic import FLOAT64, LOOPED, Bowls, maml, mean_gradient, reptile, vector, worker
from tests.unit.virtual import VirtualTransport, virtual_pool

pytestmark = pytest.mark.usefixtures("torch_threads")

COUNT, CHUNK = 16, 4
ALGORITHMS = {"maml": maml(0.3, 2), "fomaml": maml(0.3, 2, first_order=True), "reptile": reptile(0.3, 2)}
SOURCE = Bowls(weighted=True)

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def contributions(name: str, chunk_size: int = CHUNK, workers: int = 1, seed: int = 0) -> list[Contribution]:
    """As they arrive from workers of random speed."""
    ours = worker(ALGORITHMS[name], SOURCE, chunk_size=chunk_size)
    transport = VirtualTransport(workers, seed, lambda work, theta, block: ours.learn_block(theta, block))
    pool = virtual_pool(transport, workers)
    chunks = chunks_of(5, 1, COUNT, chunk_size, purpose="train", split="train")
    return [contribution for contribution, _ in pool.learn(vector().numpy(), chunks)]


def stepped(name: str, arrived: list[Contribution]) -> Tensor:
    """Theta after one plain step of rate 1: theta minus the mean."""
    algorithm = ALGORITHMS[name]
    layout = worker(algorithm, SOURCE).layout
    store = Store(algorithm, layout, vector(), {"model": Outer(optimizer="sgd", lr=1.0)}, 1)
    store.step(1, arrived)
    return store.theta


@every_algorithm
def test_the_mean_over_tasks_is_the_same_for_every_chunk_size(name):
    whole = chunks_of(5, 1, COUNT, COUNT, purpose="train", split="train")
    tasks = [ticket for chunk in whole for ticket in chunk.tickets]
    weights = [SOURCE.sample(ticket).weight for ticket in tasks]
    assert len(set(weights)) > 1
    single = [mean_gradient(ALGORITHMS[name], SOURCE, vector(), [ticket], LOOPED) for ticket in tasks]
    mean = sum(weight * gradient for weight, gradient in zip(weights, single, strict=True)) / sum(weights)
    for chunk_size in (1, 2, 4, 8, 16):
        found = stepped(name, contributions(name, chunk_size))
        assert_close(found, vector() - mean, rtol=0, atol=1e-12)


@every_algorithm
def test_the_same_bits_for_any_number_of_workers(name):
    hashes = {sha256(stepped(name, contributions(name, workers=n, seed=n))) for n in (1, 2, 4)}
    assert len(hashes) == 1


@every_algorithm
def test_the_same_bits_in_any_order_of_arrival(name):
    arrived = contributions(name, chunk_size=1)
    first = stepped(name, arrived)
    for seed in range(20):
        shuffled = random.Random(seed).sample(arrived, COUNT)
        assert torch.equal(stepped(name, shuffled), first)


@every_algorithm
def test_vectorised_and_looped_are_equal(name):
    asked = chunks_of(5, 1, 8, 8, purpose="train", split="train")[0].tickets
    fast, slow = (mean_gradient(ALGORITHMS[name], SOURCE, vector(), asked, numerics) for numerics in (FLOAT64, LOOPED))
    assert_close(fast, slow, rtol=0, atol=1e-12)
