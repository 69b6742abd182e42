"""Neural processes against closed forms, in float64: codes of sets, the bound, and the two log-likelihoods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pipeline.algorithms import ALGORITHMS
from pipeline.algorithms.np import NP, LatentCode
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Ticket, init_rng
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Context, Points, Task
from pipeline.families.latent_process import Latent
from pipeline.nets.coding import Perceptron
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.serving.learner import Learner
from pipeline.tasks import classfile
from pipeline.tasks.completion import Completion
from pipeline.tasks.gp_curves import GPCurves, Kernel
from tests.bench.gaussian_process import log_likelihoods

pytestmark = pytest.mark.usefixtures("torch_threads")

NAMES = ("cnp", "np", "anp")
K = 5


def made(name, mode="none", **changes):
    """An algorithm of curves, and its theta in float64."""
    kind = ALGORITHMS[name]
    sizes = {"width": 16} | ({} if name == "cnp" else {"latent": 4, "samples": K})
    net = MLP(MLP.Config((8,)), (1,), 1, normalised=mode != "none")
    algorithm = kind(kind.Config(**sizes | changes), NormalisedNet(net, mode, (1,)), LOSSES["gaussian"].function)
    theta = {"model": {leaf: value.double() for leaf, value in algorithm.init(init_rng(3))["model"].items()}}
    return algorithm, theta


def context(algorithm, phase="evaluate"):
    noise = algorithm.draw(np.random.default_rng(0), Task("t", points(5), points(4)), phase)
    return Context(1, phase, 1, noise)


def points(count, seed=0):
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.normal(size=(count, 1))) for _ in range(2))
    return Points(x, y, torch.ones(count, dtype=torch.float64))


def longer(of, count, rubbish=7.0):
    """The same points with padding that holds something."""
    more = torch.full((count, 1), rubbish, dtype=torch.float64)
    return Points(torch.cat([of.x, more]), torch.cat([of.y, -more]), torch.cat([of.mask, 0 * more[:, 0]]))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_support_set_does_not_matter(name):
    algorithm, theta = made(name)
    support, query, order = points(7), points(4, 1), torch.tensor([3, 1, 6, 0, 2, 5, 4])
    shuffled = Points(*(part[order] for part in support))
    answers = [
        algorithm.predict(algorithm.adapt(theta, one, context(algorithm)), query.x) for one in (support, shuffled)
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_as_if_it_were_not_there(name):
    algorithm, theta = made(name)
    support, query, at = points(5), points(4, 1), context(algorithm)
    train = context(algorithm, "train")
    short, padded = Task("t", support, query), Task("t", longer(support, 3), longer(query, 2))
    scores = [algorithm.score(algorithm.adapt(theta, of.support, at), of.query, at) for of in (short, padded)]
    objectives = [algorithm.objective(theta, of, train) for of in (short, padded)]
    for one, other in (scores, objectives):
        torch.testing.assert_close(one.loss, other.loss, rtol=0, atol=1e-12)
        assert one.metrics.keys() == other.metrics.keys()
        for metric, value in one.metrics.items():
            torch.testing.assert_close(value, other.metrics[metric], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_support_set_gives_the_prior(name):
    """What lies in the padding is not looked at, and the answer is one."""
    algorithm, theta = made(name)
    query, at = points(4, 1), context(algorithm)
    empty = [longer(points(0), 3, rubbish) for rubbish in (1.0, 50.0)]
    answers = [algorithm.predict(algorithm.adapt(theta, one, at), query.x) for one in empty]
    assert torch.equal(*answers)
    assert torch.isfinite(answers[0]).all()


def test_attention_with_equal_weights_is_the_mean():
    anp, theta = made("anp", heads=1)
    np_, _ = made("np")
    theta["model"] = {leaf: value * (not leaf.startswith("keys/")) for leaf, value in theta["model"].items()}
    support, query, at = longer(points(5), 2), points(4, 1), context(anp)
    answers = [one.predict(one.adapt(theta, support, at), query.x) for one in (anp, np_)]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-12)


def test_heads_share_out_the_width():
    with pytest.raises(ConfigError, match="algorithm.heads: 3, but the width 16 cannot be shared out"):
        made("anp", heads=3)


@pytest.mark.parametrize("mode", ["transductive", "support", "one_query", "running"])
def test_statistics_over_examples_are_refused(mode):
    with pytest.raises(ConfigError, match=f"normalisation: {mode} takes statistics over examples"):
        made("cnp", mode)


def test_the_divergence_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    p, q = (Latent(torch.from_numpy(rng.normal(size=4)), torch.from_numpy(rng.uniform(0.1, 1, size=4))) for _ in "pq")
    expected = kl_divergence(*(Independent(Normal(one.mean, one.deviation), 1) for one in (p, q)))
    torch.testing.assert_close(p.divergence(q), expected, rtol=1e-14, atol=0)
    assert p.divergence(p) == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_squared_error_is_that_of_the_answer_without_padding(name):
    algorithm, theta = made(name)
    query, at = points(4, 1), context(algorithm)
    adapted = algorithm.adapt(theta, points(5), at)
    expected = (algorithm.predict(adapted, query.x)[:, 0] - query.y[:, 0]).square().mean()
    found = algorithm.score(adapted, longer(query, 3), at).metrics["mse"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_served_is_a_mean_and_a_deviation(name):
    algorithm, theta = made(name)
    learner = Learner(algorithm, theta, Spec(Points, (1,), 1, "values", "gaussian"))
    support, query = points(5), points(4, 1)
    answer = learner.adapt(support.x, support.y).predict(query.x)
    assert answer.shape == (4, 2)
    assert (answer[:, 1] >= algorithm.config.floor).all()
    assert (answer == learner.adapt(support.x.numpy(), support.y[:, 0].tolist()).predict(query.x)).all()


S2 = 0.25
"""The variance of a value around z in the toy."""


class Toy(NP):
    """z ~ N(0, 1), y = z + N(0, S2): encoder and decoder are exact."""

    def latent(self, phi, of):
        precision = 1 + of.mask.sum() / S2
        return Latent(((of.y[:, 0] * of.mask).sum() / S2 / precision).reshape(1), precision.rsqrt().reshape(1))

    def coded(self, phi, support, z):
        return LatentCode(phi, torch.zeros(16, dtype=torch.float64), z)

    def decoded(self, adapted, x):
        mean = adapted.z.unsqueeze(1).expand(-1, len(x), -1)
        return torch.cat([mean, torch.full_like(mean, math.sqrt(S2))], -1)


@pytest.fixture
def toy():
    """The toy, 3 support and 4 query points, and the joint and the mean marginal log-likelihood of the latter."""
    net = NormalisedNet(MLP(MLP.Config((8,)), (1,), 1, normalised=False), "none", (1,))
    algorithm = Toy(NP.Config(width=16, latent=1, answer_support=False), net, LOSSES["gaussian"].function)
    support, query = points(3), points(4, 1)
    q = algorithm.latent({}, support)
    ones = torch.ones(4, 4, dtype=torch.float64)
    cover = q.deviation**2 * ones + S2 * torch.eye(4, dtype=torch.float64)
    joint = MultivariateNormal(q.mean.expand(4), cover).log_prob(query.y[:, 0]) / 4
    marginal = Normal(q.mean, cover[0, 0].sqrt()).log_prob(query.y[:, 0]).mean()
    return algorithm, Task("toy", support, query), joint, marginal


def test_with_exact_encoders_the_bound_is_the_joint_log_likelihood(toy):
    """The expectation of a parabola under N(m, s²) is its mean at m - s and m + s: two samples of z are exact."""
    algorithm, task, joint, _ = toy
    noise = {"z": torch.tensor([[1.0], [-1.0]], dtype=torch.float64)}
    score = algorithm.objective({"model": {}}, longer_task(task), Context(1, "train", 1, noise))
    torch.testing.assert_close(-score.loss, joint, rtol=0, atol=2e-15)


def longer_task(task):
    return Task(task.id, longer(task.support, 2), longer(task.query, 3))


def test_many_samples_tell_the_joint_from_the_marginal_log_likelihood(toy):
    algorithm, task, joint, marginal = toy
    found = {}
    for samples in (1, 10, 100_000):
        noise = {"z": torch.from_numpy(np.random.default_rng(1).normal(size=(samples, 1)))}
        at = Context(1, "evaluate", 1, noise)
        metrics = algorithm.score(algorithm.adapt({"model": {}}, task.support, at), task.query, at).metrics
        found[samples] = (metrics["log_likelihood_joint"].item(), metrics["log_likelihood"].item())
    assert found[1][0] == pytest.approx(found[1][1], abs=1e-14), "one sample knows no difference"
    assert found[100_000] == pytest.approx((joint.item(), marginal.item()), abs=0.005)
    assert abs(joint - marginal) > 0.01


@pytest.mark.parametrize("name", ["np", "anp"])
def test_the_likelihood_as_objective_is_what_evaluation_reports(name):
    algorithm, theta = made(name, objective="likelihood", train_samples=K, answer_support=False)
    task = Task("t", longer(points(5), 2), longer(points(4, 1), 2))
    noise = algorithm.draw(np.random.default_rng(0), task, "train")
    trained = algorithm.objective(theta, task, Context(1, "train", 1, noise))
    at = Context(1, "evaluate", 1, noise)
    judged = algorithm.score(algorithm.adapt(theta, task.support, at), task.query, at)
    assert noise["z"].shape == (K, 4)
    assert torch.equal(trained.loss, -judged.metrics["log_likelihood"])


def test_hidden_units_bend_at_different_inputs():
    net = Perceptron("net", (1,), 500, 1, 1)
    leaves = net.init(np.random.default_rng(0))
    weight, bias = leaves["net/layer0/weight"][:, 0], leaves["net/layer0/bias"]
    assert 2.9 < bias.abs().max() <= 3
    bends = (-bias / weight).sort().values
    assert ((bends > -2) & (bends < -0.5)).sum() > 80
    assert ((bends > 0.5) & (bends < 2)).sum() > 80


def test_each_part_of_an_input_begins_with_the_same_share():
    weight = Perceptron("net", (1, 100), 4000, 1, 1).init(np.random.default_rng(0))["net/layer0/weight"]
    shares = weight[:, :1].square().sum(1).mean(), weight[:, 1:].square().sum(1).mean()
    assert shares == pytest.approx((1.0, 1.0), abs=0.1)


def test_a_prior_that_knows_no_task_leaves_the_answer_to_the_mean_code():
    """The article's literal form: z is drawn from N(0, 1) for every task, and the support set moves only r."""
    algorithm, theta = made("np", prior="standard")
    at = context(algorithm)
    adapted = [algorithm.adapt(theta, points(5, seed), at) for seed in (0, 1)]
    assert torch.equal(adapted[0].z, adapted[1].z)
    assert not torch.equal(adapted[0].code, adapted[1].code)
    assert not [leaf for leaf in theta["model"] if leaf.startswith("latent")]


@pytest.fixture
def curves():
    return GPCurves(GPCurves.Config(sizes="task"), TaskShapes(TaskShape(1, 46, 46), TaskShape(1, 46, 46)))


def test_curves_have_the_sizes_that_they_are_asked_for(curves):
    sizes = []
    for number in range(300):
        task = curves.sample(Ticket(1, "train", "train", 1, number))
        assert task.support.x.shape == task.query.y.shape == (46, 1)
        sizes.append((int(task.support.mask.sum()), int(task.query.mask.sum())))
        assert not (task.support.y[:, 0] * (1 - task.support.mask)).any()
    shots, queries = zip(*sizes, strict=True)
    assert (min(shots), max(shots), min(queries)) == (3, 46, 3)
    assert max(map(sum, sizes)) <= 49


def test_the_training_tasks_of_a_step_have_one_size_and_no_padding():
    shapes = TaskShapes(TaskShape(1, 46, 46), TaskShape(1, 46, 46))
    source, sizes = GPCurves(GPCurves.Config(), shapes), set()
    for step in range(20):
        tasks = [source.sample(Ticket(1, "train", "train", step, number)) for number in range(4)]
        (size,) = {(len(one.support.x), len(one.query.x)) for one in tasks}
        assert all(part.mask.all() for one in tasks for part in (one.support, one.query))
        assert len({one.support.x[0].item() for one in tasks}) == 4, "the points are each task's own"
        sizes.add(size)
    assert len(sizes) > 15
    tests = [source.sample(Ticket(1, "evaluate", "test", 0, number)) for number in range(4)]
    assert {len(one.support.x) for one in tests} == {46}
    assert len({int(one.support.mask.sum()) for one in tests}) > 1


@pytest.mark.parametrize("kernel", ["rbf", "matern", "periodic"])
def test_curves_have_the_covariance_of_their_kernel(kernel):
    of = Kernel(kernel, 0.5, 0.8, 0.7, 0.02)
    x = np.array([0.0, 0.1, 0.4, 1.3])
    drawn = np.linalg.cholesky(of.covariance(x)) @ np.random.default_rng(0).normal(size=(4, 200_000))
    assert np.cov(drawn) == pytest.approx(of.covariance(x), abs=0.01)
    assert of.covariance(x)[0, 0] == pytest.approx(0.7**2 + 0.02**2, abs=1e-6)


def test_the_ceiling_is_the_posterior_of_the_kernel(curves):
    task, kernel = curves.drawn(Ticket(1, "train", "train", 1, 0))
    marginal, joint = log_likelihoods(task, kernel)
    shots, queries = (int(one.mask.sum()) for one in (task.support, task.query))
    x = torch.cat([task.support.x[:shots, 0], task.query.x[:queries, 0]])
    y = torch.cat([task.support.y[:shots, 0], task.query.y[:queries, 0]])
    cover = torch.from_numpy(kernel.covariance(x.numpy()))
    both = MultivariateNormal(torch.zeros(len(x), dtype=torch.float64), cover).log_prob(y)
    given = MultivariateNormal(torch.zeros(shots, dtype=torch.float64), cover[:shots, :shots]).log_prob(y[:shots])
    assert joint == pytest.approx((both - given).item() / queries, rel=1e-6)
    variance = (
        cover[shots:, shots:].diagonal()
        - (cover[shots:, :shots] @ torch.linalg.solve(cover[:shots, :shots], cover[:shots, shots:])).diagonal()
    )
    mean = cover[shots:, :shots] @ torch.linalg.solve(cover[:shots, :shots], y[:shots])
    assert marginal == pytest.approx(Normal(mean, variance.sqrt()).log_prob(y[shots:]).mean().item(), rel=1e-6)


def test_completion_shows_pixels_of_one_image_and_asks_for_others(small_images):
    shapes = TaskShapes(TaskShape(1, 40, 60), TaskShape(1, 10, 246))
    source = Completion(Completion.Config(str(small_images)), shapes)
    images = {image.tobytes() for image in classfile.read(small_images).images}
    task = source.sample(Ticket(1, "evaluate", "test", 0, 3))
    assert (task.support.x.shape, task.query.y.shape) == ((10, 2), (246, 1))
    drawn = np.zeros((16, 16), np.uint8)
    for part in (task.support, task.query):
        assert part.mask.all()
        rows, columns = ((part.x + 1) / 2 * 15).round().int().T.numpy()
        drawn[rows, columns] = (part.y[:, 0] * 255).round().numpy()
    assert drawn.tobytes() in images, "all 256 pixels stand where they stood"
    sizes = {len(source.sample(Ticket(1, "train", "train", step, 0)).support.x) for step in range(100)}
    assert (min(sizes), max(sizes)) >= (3, 39)
    with pytest.raises(ConfigError, match="task.eval: 10 shots and 247 queries are 257 pixels, an image has 256"):
        Completion(Completion.Config(str(small_images)), TaskShapes(shapes.train, TaskShape(1, 10, 247)))


@pytest.mark.parametrize(
    ("changes", "shape", "says"),
    [
        ({"length_scale": (0.6, 0.1)}, (46, 46), r"source.length_scale: \[0.6, 0.1\], expected the lower bound first"),
        ({}, (2, 46), "task.train.shots: 2, but source.fewest_shots is 3"),
        ({}, (46, 1), "task.train.queries: 1, but source.fewest_queries is 3"),
        ({"points": 40}, (46, 46), "source.points: 40, but task.train.shots and source.fewest_queries may take 49"),
    ],
)
def test_sizes_and_bounds_that_no_task_can_have_are_refused(changes, shape, says):
    with pytest.raises(ConfigError, match=says):
        GPCurves(GPCurves.Config(**changes), TaskShapes(TaskShape(1, *shape), TaskShape(1, *shape)))
