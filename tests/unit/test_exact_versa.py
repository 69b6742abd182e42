"""VERSA against closed forms, in float64: what is inferred, and what the samples are averaged to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.algorithms.versa import VERSA, SampledHeads
from pipeline.core.losses import LOSSES
from pipeline.core.network import Adapted
from pipeline.core.seeding import init_rng
from pipeline.core.types import Batch, Context, Task
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

C, K, D = 3, 5, 6


@pytest.fixture
def versa():
    model = NormalisedNet(MLP(MLP.Config((D,)), (4,), None, normalised=False), "none", (4,))
    algorithm = VERSA(VERSA.Config(width=8, samples=K), model, LOSSES["cross_entropy"].function)
    theta = algorithm.init(init_rng(3))
    return algorithm, {group: {leaf: of.double() for leaf, of in leaves.items()} for group, leaves in theta.items()}


def examples(each, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(C * each, 4)))
    return Batch(x, torch.arange(C * each) % C)


def context(algorithm, seed=0):
    noise = algorithm.draw(np.random.default_rng(seed), Task("t", examples(2), examples(3), C), "train")
    return Context(1, "train", C, noise)


def certain(theta):
    """Theta that infers a deviation of 0."""
    bias = theta["inference"]["inference/head/bias"].clone()
    bias[D + 1 :] = -1e6
    return theta | {"inference": theta["inference"] | {"inference/head/bias": bias}}


def test_the_order_of_the_examples_does_not_matter(versa):
    algorithm, theta = versa
    support, query, order = examples(2), examples(3, 1), torch.tensor([3, 1, 0, 2, 5, 4])
    answers = [
        algorithm.predict(algorithm.adapt(theta, one, context(algorithm)), query.x)
        for one in (support, Batch(support.x[order], support.y[order]))
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)


def test_classes_with_other_numbers_have_the_same_answers(versa):
    """A row is inferred from its class alone."""
    algorithm, theta = versa
    support, query, turned, at = examples(2), examples(3, 1), torch.tensor([2, 0, 1]), context(algorithm)
    found = algorithm.predict(algorithm.adapt(theta, support, at), query.x)
    noise = {"heads": at.noise["heads"][:, turned.argsort()]}
    renamed = Batch(support.x, turned[support.y])
    other = algorithm.predict(algorithm.adapt(theta, renamed, at._replace(noise=noise)), query.x)
    torch.testing.assert_close(found, other[:, turned], rtol=0, atol=1e-12)


def test_with_a_deviation_of_0_the_head_is_one_function_of_the_means(versa):
    algorithm, theta = versa
    support, query = examples(2), examples(3, 1)
    adapted = algorithm.adapt(certain(theta), support, context(algorithm))
    z = [algorithm.model.predict(Adapted(theta["model"], {}), of.x) for of in (support, query)]
    means = torch.stack([z[0][support.y == slot].mean(0) for slot in range(C)])
    row = algorithm.inference(theta["inference"], means)[:, : D + 1]
    logits = z[1] @ row[:, :D].T / D**0.5 + row[:, D]
    expected = torch.nn.functional.cross_entropy(logits, query.y)
    torch.testing.assert_close(algorithm.score(adapted, query, context(algorithm)).loss, expected, rtol=0, atol=1e-12)


def test_the_answer_is_the_mean_of_the_samples_probabilities(versa):
    """Not the probabilities of a mean head, nor a mean of their logarithms."""
    algorithm, theta = versa
    query, at = examples(3, 1), context(algorithm)
    heads, encoder = algorithm.adapt(theta, examples(2), at)
    one_by_one = [algorithm.predict(SampledHeads(head.unsqueeze(0), encoder), query.x).exp() for head in heads]
    answer = algorithm.predict(SampledHeads(heads, encoder), query.x)
    torch.testing.assert_close(answer.exp(), sum(one_by_one) / K, rtol=0, atol=1e-14)
    torch.testing.assert_close(answer.exp().sum(-1), torch.ones(len(query.x), dtype=torch.float64), rtol=0, atol=1e-14)
    loss = algorithm.score(SampledHeads(heads, encoder), query, at).loss
    chosen = (sum(one_by_one) / K)[torch.arange(len(query.y)), query.y]
    torch.testing.assert_close(loss, -chosen.log().mean(), rtol=0, atol=1e-14)


def test_the_head_has_the_inferred_moments(versa):
    algorithm, theta = versa
    support = examples(2)
    means = torch.stack(
        [
            algorithm.model.predict(Adapted(theta["model"], {}), support.x)[support.y == slot].mean(0)
            for slot in range(C)
        ]
    )
    centre, log_variance = algorithm.inference(theta["inference"], means).chunk(2, -1)
    noise = {"heads": torch.from_numpy(np.random.default_rng(0).normal(size=(200_000, C, D + 1)))}
    heads = algorithm.adapt(theta, support, Context(1, "train", C, noise)).heads
    torch.testing.assert_close(heads.mean(0), centre, rtol=0, atol=0.02)
    torch.testing.assert_close(heads.var(0).log(), log_variance, rtol=0, atol=0.02)
