"""MetaGAN in float64: losses in closed form, each group's gradient by finite differences, and what must not leak."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.algorithms import ALGORITHMS
from pipeline.core.failures import ConfigError
from pipeline.core.flat import cast
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import init_rng
from pipeline.core.types import Batch, Context, Task
from pipeline.families import adversarial
from pipeline.families.adversarial import FAKES, GENERATOR, fake_loss, generator_loss, log_p_real
from pipeline.nets.generator import Generator
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.runs.dry_run import dry_run
from tests.runtime.tiny import recipe

pytestmark = pytest.mark.usefixtures("torch_threads")

BASES = ("protonet", "relationnet", "maml")
WAYS, SHOTS, QUERIES, SHAPE = 3, 2, 4, (1, 6, 5)
EXACT = {"rtol": 0.0, "atol": 1e-12}


def made(base, mode="none", prefix="metagan_", **changes):
    """An algorithm behind a small smooth network, with inner steps that move, and its theta."""
    kind = ALGORITHMS[prefix + base]
    changes |= {"inner_lr": 0.3, "inner_steps": 2, "eval_inner_steps": 2} if base == "maml" else {}
    changes |= {"latent": 3, "width": 4} if prefix and changes.get("fakes") != "noise" else {}
    outputs = WAYS if kind.needs.head else None
    net = MLP(MLP.Config((7,), activation="tanh"), SHAPE, outputs, normalised=mode != "none")
    algorithm = kind(kind.Config(**changes), NormalisedNet(net, mode, SHAPE), LOSSES["cross_entropy"].function)
    return algorithm, cast(algorithm.init(init_rng(3)), torch.float64)


def batch(each, seed):
    y = torch.arange(WAYS).repeat(each)
    return Batch(torch.from_numpy(np.random.default_rng(seed).normal(size=(len(y), *SHAPE))), y)


def few(seed=1):
    """A task; another ``seed`` changes its query set alone."""
    return Task("t", batch(SHOTS, 0), batch(QUERIES, seed), WAYS)


def drawn(algorithm, phase="train", seed=0):
    return Context(1, phase, WAYS, algorithm.draw(np.random.default_rng(seed), few(), phase))


def same(one, other):
    """Whether the numbers are the same, up to the order of sums."""
    return all(torch.allclose(one[name], other[name], rtol=1e-12, atol=1e-14) for name in other)


def learned_by(algorithm, theta):
    return algorithm.learn(theta, few(), drawn(algorithm))[0]


def beside_each_other(algorithm):
    """The wrong variant: real queries and fakes go through the network as one batch."""

    def losses(theta, task, context):
        fakes = algorithm.fakes(theta, task.support, context)
        inner = context._replace(noise=context.noise | {FAKES: fakes.detach()})
        adapted = algorithm.discriminator.adapt(theta, task.support, inner)
        logits = algorithm.discriminator.predict(adapted, torch.cat([task.query.x, fakes]))
        score = algorithm.loss(logits[: len(task.query.x), :-1], task.query.y)
        of_model = score.loss + algorithm.config.fake_weight * fake_loss(logits[len(task.query.x) :])
        return {group: of_model for group in theta if group != GENERATOR}, score

    algorithm.losses = losses


@pytest.mark.parametrize("mode", ["none", "transductive", "support"])
@pytest.mark.parametrize("base", BASES)
def test_without_weight_on_fakes_the_gradient_is_that_of_the_base(base, mode):
    """Also in batches that normalise by themselves: no statistics of a fake reach a real example."""
    plain, its = made(base, mode, prefix="")
    weightless, theta = made(base, mode, fake_weight=0.0)
    assert all(same({name: theta[group][name] for name in its[group]}, its[group]) for group in its), "starts elsewhere"
    expected = plain.learn(its, few(), drawn(plain))[0]
    found = learned_by(weightless, theta)
    assert all(same(found[group], expected[group]) for group in its)
    beside_each_other(weightless)
    leaky = learned_by(weightless, theta)
    assert all(same(leaky[group], expected[group]) for group in its) == (mode != "transductive")
    weighed = learned_by(made(base, mode)[0], theta)
    assert not any(same(weighed[group], expected[group]) for group in its)


def own_loss(algorithm, theta, group, adapted, fakes):
    """What a group descends, written with probabilities; the other side's part is given and does not change."""
    context, w = drawn(algorithm), algorithm.config.fake_weight
    discriminator, task = algorithm.discriminator, few()
    if group == GENERATOR:
        fakes = algorithm.fakes(theta, task.support, context)
    else:
        noise = context.noise | {FAKES: fakes}
        adapted = discriminator.adapt(theta, task.support, context._replace(noise=noise))
    p_fake = torch.softmax(discriminator.predict(adapted, fakes), -1)[:, -1]
    if group == GENERATOR:
        return -torch.log(1 - p_fake).mean()
    logits = discriminator.predict(adapted, task.query.x)
    p_real = 1 - torch.softmax(logits, -1)[:, -1]
    classes = algorithm.loss(logits[:, :-1], task.query.y).loss
    return classes - w * torch.log(p_real).mean() - w * torch.log(p_fake).mean()


def furthest_from_finite_differences(algorithm, theta):
    """The largest difference between a leaf's gradient and the slope of its group's own loss, each along a line."""
    gradient, task, context = learned_by(algorithm, theta), few(), drawn(algorithm)
    fakes = algorithm.fakes(theta, task.support, context).detach()
    noise = context.noise | {FAKES: fakes}
    adapted = algorithm.discriminator.adapt(theta, task.support, context._replace(noise=noise))
    rng, far = torch.Generator().manual_seed(0), 0.0
    for group, leaves in gradient.items():
        for name, slope in leaves.items():
            way = torch.randn(slope.shape, generator=rng, dtype=slope.dtype)

            def along(step, group=group, name=name, way=way):
                moved = theta | {group: theta[group] | {name: theta[group][name] + step * way}}
                return own_loss(algorithm, moved, group, adapted, fakes).item()

            measured = (along(1e-6) - along(-1e-6)) / 2e-6
            far = max(far, abs(measured - (slope * way).sum().item()))
    return far


@pytest.mark.parametrize("base", BASES)
def test_each_group_s_gradient_is_the_slope_of_its_own_loss_alone(base, monkeypatch):
    algorithm, theta = made(base, fake_weight=0.7)
    assert set(learned_by(algorithm, theta)) == set(theta) >= {"model", GENERATOR}
    assert furthest_from_finite_differences(algorithm, theta) < 1e-8
    if base == "maml":
        with monkeypatch.context() as patch:
            patch.setattr(
                adversarial,
                "_with",
                lambda context, fakes: context._replace(noise=context.noise | {FAKES: fakes}),
            )
            assert furthest_from_finite_differences(algorithm, theta) > 1e-5, "through the inner loop"
    right = algorithm.losses

    def of_the_sum(*given):
        losses, score = right(*given)
        whole = losses["model"] + losses[GENERATOR]
        return dict.fromkeys(losses, whole), score

    algorithm.losses = of_the_sum
    assert furthest_from_finite_differences(algorithm, theta) > 1e-3


@pytest.mark.parametrize("base", BASES)
def test_a_step_of_the_generator_does_not_move_the_discriminator(base, monkeypatch):
    algorithm, theta = made(base)
    before = learned_by(algorithm, theta)
    monkeypatch.setattr(adversarial, "generator_loss", lambda logits: 1000 * generator_loss(logits))
    after = learned_by(algorithm, theta)
    assert all(torch.equal(leaf, before[group][name]) for group, name, leaf in classifier_leaves(after))
    assert same(after[GENERATOR], {name: 1000 * leaf for name, leaf in before[GENERATOR].items()})
    assert any(leaf.any() for leaf in after[GENERATOR].values())


def classifier_leaves(gradient):
    return [(group, name, leaf) for group in gradient if group != GENERATOR for name, leaf in gradient[group].items()]


def probability_of_real(logits):
    return log_p_real(logits).exp()


def test_real_is_any_of_the_n_classes():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 6)))
    p = torch.softmax(logits, -1)
    torch.testing.assert_close(probability_of_real(logits), p[:, :-1].sum(-1), **EXACT)
    torch.testing.assert_close(probability_of_real(logits), 1 - p[:, -1], **EXACT)
    assert (probability_of_real(logits) - p[:, :-1].amax(-1)).min() > 0.05, "not that of the most likely class"
    torch.testing.assert_close(fake_loss(logits), -p[:, -1].log().mean(), **EXACT)
    torch.testing.assert_close(generator_loss(logits), -(1 - p[:, -1]).log().mean(), **EXACT)
    sure = torch.tensor([[0.0, 0.0, 1e3]], dtype=torch.float64, requires_grad=True)
    assert generator_loss(sure).item() == pytest.approx(1e3 - math.log(2))
    (slope,) = torch.autograd.grad(generator_loss(sure), sure)
    assert slope[0, -1].item() == pytest.approx(1.0), "saturates where the classifier is sure"
    torch.testing.assert_close(log_p_real(torch.cat([logits, logits + 5])), log_p_real(logits).repeat(2), **EXACT)


def test_the_best_discriminator_of_two_gaussians_is_p_r_over_p_r_and_p_g():
    """Real N(1, 1), fakes N(-0.5, 1): its logit is linear, log p_r - log p_g = 1.5 x - 0.375.

    Two classes share the real examples, with p(first | x) = 1 / (1 + exp(-x)), which the losses must not care about.
    """
    count = 20_000
    at = [(i + 0.5) / count for i in range(count)]
    real, fake = (torch.tensor([NormalDist(mean).inv_cdf(q) for q in at], dtype=torch.float64) for mean in (1.0, -0.5))

    def logits(line, x):
        t = line[0] + line[1] * x
        first, second = t + torch.nn.functional.logsigmoid(x), t + torch.nn.functional.logsigmoid(-x)
        return torch.stack([first, second, torch.zeros_like(x)], -1)

    def loss(line):
        return -log_p_real(logits(line, real)).mean() + fake_loss(logits(line, fake))

    line = torch.zeros(2, dtype=torch.float64)
    for _ in range(8):
        line = line - torch.linalg.solve(torch.func.hessian(loss)(line), torch.func.grad(loss)(line))
    torch.testing.assert_close(line, torch.tensor([-0.375, 1.5], dtype=torch.float64), rtol=0, atol=1e-3)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    p_r, p_g = (torch.exp(-((x - mean) ** 2) / 2) for mean in (1.0, -0.5))
    torch.testing.assert_close(probability_of_real(logits(line, x)), p_r / (p_r + p_g), rtol=0, atol=1e-3)
    # At the optimum the loss is 2 ln 2 less twice the Jensen-Shannon divergence.
    mixture = [(torch.log(p(of)) - torch.log((p(of) + q(of)) / 2)).mean() for of, p, q in densities(real, fake)]
    assert loss(line).item() == pytest.approx(2 * math.log(2) - sum(mixture).item(), abs=1e-6)


def densities(real, fake):
    def density(mean):
        return lambda x: torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)

    return (real, density(1.0), density(-0.5)), (fake, density(-0.5), density(1.0))


@pytest.mark.parametrize("base", BASES)
def test_fakes_come_from_the_drawn_noise_and_the_support_set(base):
    algorithm, theta = made(base)
    support, one, other = few().support, drawn(algorithm), drawn(algorithm, seed=1)
    assert one.noise["z"].shape == (WAYS * SHOTS, 3)
    fakes = algorithm.fakes(theta, support, one)
    assert fakes.shape == (WAYS * SHOTS, *SHAPE)
    assert torch.equal(fakes, algorithm.fakes(theta, support, one))
    assert (fakes - algorithm.fakes(theta, support, other)).abs().max() > 1e-3
    order = torch.randperm(WAYS * SHOTS, generator=torch.Generator().manual_seed(0))
    shuffled = algorithm.fakes(theta, Batch(support.x[order], support.y[order]), one)
    torch.testing.assert_close(shuffled, fakes, **EXACT)
    assert (algorithm.fakes(theta, batch(SHOTS, 5), one) - fakes).abs().max() > 1e-3
    noiseless = one._replace(noise={"z": torch.zeros_like(one.noise["z"])})
    alike = algorithm.fakes(theta, support, noiseless)
    torch.testing.assert_close(alike, alike[:1].expand_as(alike), **EXACT)


def of_the_generator(algorithm, theta, task):
    gradient, score = algorithm.learn(theta, task, drawn(algorithm))
    return gradient[GENERATOR] | {"loss": score.metrics[f"loss/{GENERATOR}"]}, score.metrics["loss/model"]


@pytest.mark.parametrize("base", BASES)
def test_the_generator_does_not_see_the_query_set(base):
    algorithm, theta = made(base)
    (one, its), (other, of_another) = (of_the_generator(algorithm, theta, few(seed)) for seed in (1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert its != of_another, "the discriminator sees it"
    seen = algorithm.fakes

    def peeking(seed):
        algorithm.fakes = lambda theta, support, context: seen(theta, few(seed).query, context)
        return of_the_generator(algorithm, theta, few(seed))[0]

    assert not same(peeking(1), peeking(2))


@pytest.mark.parametrize("base", BASES)
def test_an_answer_has_no_fake_class(base):
    algorithm, theta = made(base)
    context, query = drawn(algorithm, "evaluate"), few().query
    assert bool(context.noise) == (base == "maml"), "what evaluation does not need is not drawn"
    adapted = algorithm.adapt(theta, few().support, context)
    logits, whole = algorithm.predict(adapted, query.x), algorithm.discriminator.predict(adapted, query.x)
    assert logits.shape == (WAYS * QUERIES, WAYS)
    assert torch.equal(logits, whole[:, :WAYS])
    loss = algorithm.score(adapted, query, context).loss
    assert loss.item() == algorithm.loss(logits, query.y).loss.item()
    if base != "relationnet":
        assert abs(loss - algorithm.loss(whole, query.y).loss) > 1e-3, "with the fake class it is another"


def test_the_fake_prototype_changes_no_answer():
    algorithm, theta = made("protonet")
    answers = []
    for place in (0.0, 3.0):
        moved = theta | {"fake": {"prototype": theta["fake"]["prototype"] + place}}
        adapted = algorithm.adapt(moved, few().support, drawn(algorithm, "evaluate"))
        answers.append(algorithm.predict(adapted, few().query.x))
    assert torch.equal(*answers)


def test_inner_steps_of_maml_see_fakes_at_evaluation_too():
    algorithm, theta = made("maml")
    train, evaluate = drawn(algorithm, "train"), drawn(algorithm, "evaluate")
    adapted, again = (algorithm.adapt(theta, few().support, at) for at in (train, evaluate))
    assert same(adapted.phi, again.phi)
    other = algorithm.adapt(theta, few().support, drawn(algorithm, "evaluate", seed=1))
    assert not same(adapted.phi, other.phi)


@pytest.mark.parametrize("base", BASES)
def test_noise_as_fakes_has_no_generator(base):
    algorithm, theta = made(base, fakes="noise")
    assert GENERATOR not in theta
    context = drawn(algorithm)
    assert context.noise[FAKES].shape == (WAYS * SHOTS, *SHAPE)
    assert 0 <= context.noise[FAKES].min() <= context.noise[FAKES].max() <= 1
    gradient, score = algorithm.learn(theta, few(), context)
    assert set(gradient) == set(theta)
    assert f"loss/{GENERATOR}" not in score.metrics


def changed(images, **changes):
    return config.validate(recipe("metagan_protonet", images).model_dump(mode="json") | changes, "changed")


def test_a_setting_of_the_generator_is_refused_beside_noise(small_images):
    noise = {"name": "metagan_protonet", "fakes": "noise"}
    with pytest.raises(ConfigError, match=r"latent: 8 has no effect with fakes: noise, it needs fakes: generator"):
        changed(small_images, algorithm=noise | {"latent": 8})
    outer = {group: {"optimizer": "adam", "lr": 0.01} for group in ("model", GENERATOR)}
    with pytest.raises(ConfigError, match=r"outer.generator: metagan_protonet has no such group"):
        dry_run(changed(small_images, algorithm=noise, outer=outer))
    dry_run(changed(small_images, outer=outer))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 21, 10), (5,), (4, 3)])
def test_a_generator_fits_any_input_and_has_second_derivatives_under_vmap(shape):
    generator = Generator(shape, 3, 16)
    params = cast(generator.init(np.random.default_rng(0)), torch.float64)
    z, x = (torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, *of))) for of in ((3,), shape))
    fakes = generator(params, z[0], x[0])
    assert fakes.shape == (4, *shape)
    assert len(shape) != 3 or (fakes.min() > 0 and fakes.max() < 1)
    assert fakes.std(0).max() > 0.01, "the noise has no effect"

    def steepness(z, x):
        slope = torch.func.grad(lambda params: generator(params, z, x).square().mean())
        return torch.func.grad(lambda params: sum(leaf.square().sum() for leaf in slope(params).values()))(params)

    together = torch.func.vmap(steepness)(z, x)
    for number in range(2):
        alone = steepness(z[number], x[number])
        for name, leaf in alone.items():
            torch.testing.assert_close(together[name][number], leaf, rtol=1e-9, atol=1e-12)
            assert leaf.any(), name
