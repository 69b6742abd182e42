"""The baselines against what they are by definition: brute force, torch's own training, finite differences; float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from pipeline.algorithms.baseline import SCALE_OF_FEW, SCALE_OF_MANY, Baseline
from pipeline.algorithms.finetune import Finetune
from pipeline.algorithms.multitask import Multitask
from pipeline.algorithms.nearest import Nearest
from pipeline.algorithms.pretrain import Pretrain
from pipeline.core.batches import batches, take
from pipeline.core.inner import Momentum, unroll
from pipeline.core.losses import cross_entropy, mean_squared_error
from pipeline.core.seeding import init_rng
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Context, MetaParams, Pairs, Params, Phase, Task
from pipeline.nets.conv4 import Conv4
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.runs.dry_run import dry_run
from pipeline.serving.learner import Learner
from tests.quiet_runs import run
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads")

EXACT = {"rtol": 0.0, "atol": 1e-12}
INPUTS, WAYS, CLASSES = 3, 4, 7
TRAIN = Context(1, "train", WAYS, {})


def model(outputs: int | None, hidden: int = 5, activation: str = "tanh") -> NormalisedNet:
    net = MLP(MLP.Config(hidden=(hidden,), activation=activation), (INPUTS,), outputs, normalised=False)
    return NormalisedNet(net, "none", (INPUTS,))


def network(phi: Params, x: Tensor) -> Tensor:
    """The forward pass of ``model``, written out."""
    return torch.tanh(x @ phi["layer0/weight"].T + phi["layer0/bias"]) @ phi["head/weight"].T + phi["head/bias"]


def fresh(algorithm: Any) -> MetaParams:
    return {
        group: {n: leaf.double() for n, leaf in leaves.items()} for group, leaves in algorithm.init(init_rng(3)).items()
    }


def examples(seed: int, each: int, classes: int = WAYS) -> Batch:
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.permutation(np.arange(classes).repeat(each)))
    return Batch(torch.from_numpy(rng.normal(size=(len(y), INPUTS))), y)


def numbers(seed: int, count: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(torch.from_numpy(rng.normal(size=(count, INPUTS))), torch.from_numpy(rng.normal(size=(count, 1))))


def drawn(algorithm: Any, task: Task[Batch], phase: Phase) -> Context:
    return Context(1, phase, task.ways, algorithm.draw(np.random.default_rng(8), task, phase))


def gradient_by_hand(theta: MetaParams, loss: Any) -> Params:
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta["model"].items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))


def both(task: Task[Batch]) -> tuple[Tensor, Tensor]:
    return tuple(torch.cat(pair) for pair in zip(task.support, task.query, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("sharpness", [-3.0, 0.0, 5.0])
def test_nearest_answers_as_brute_force_does_whatever_was_learned(sharpness):
    algorithm = Nearest(Nearest.Config(), model(None), cross_entropy)
    support, query = examples(1, 3), examples(2, 10)
    by_hand = [support.y[int(np.argmin([((x - s) ** 2).sum().item() for s in support.x]))].item() for x in query.x]
    theta = {"model": {"log_sharpness": torch.tensor(sharpness, dtype=torch.float64)}}
    adapted = algorithm.adapt(theta, support, TRAIN)
    assert algorithm.predict(adapted, query.x).argmax(1).tolist() == by_hand
    assert 0 < algorithm.score(adapted, query, TRAIN).metrics["accuracy"].item() < 1


def test_sharper_distances_are_sharper_logits():
    algorithm, support, query = Nearest(Nearest.Config(), model(None), cross_entropy), examples(1, 3), examples(2, 2)
    flat, sharp = (
        algorithm.predict(algorithm.adapt({"model": {"log_sharpness": torch.tensor(t)}}, support, TRAIN), query.x)
        for t in (0.0, np.log(7.0))
    )
    nearest = torch.stack(
        [(query.x[:, None] - support.x[support.y == c]).square().mean(2).amin(1) for c in range(WAYS)], 1
    )
    assert_close(flat, -nearest, **EXACT)
    assert_close(sharp, 7 * flat, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_finetune_is_plain_training_by_torch(optimizer, batch):
    config = Finetune.Config(inner_optimizer=optimizer, inner_lr=0.05, inner_steps=6, inner_batch=batch)
    algorithm = Finetune(config, model(WAYS), cross_entropy)
    support, theta = examples(1, 2), fresh(algorithm)
    noise = algorithm.draw(np.random.default_rng(3), Task("task", support, support), "train")
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in theta["model"].items()}
    torchs = (torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam)(list(leaves.values()), lr=0.05)
    for step, adapted in enumerate(tuple(algorithm.trace(theta, support, TRAIN._replace(noise=noise)))):
        for name, leaf in leaves.items():
            assert_close(adapted.phi[name], leaf.detach(), rtol=0.0, atol=1e-10)
        if step < 6:
            seen = take(support, noise["batches"][step]) if batch else support
            torchs.zero_grad()
            F.cross_entropy(network(leaves, seen.x), seen.y).backward()
            torchs.step()


def test_finetune_learns_no_theta_and_a_run_of_it_goes_on_after_a_resume(small_images, tmp_path):
    recipe = tiny.recipe("finetune", small_images, outer={})
    first = dry_run(recipe).theta
    half = run(tiny.recipe("finetune", small_images, 2, outer={}), tmp_path / "resumed", 0)
    whole = run(recipe, tmp_path / "straight", 0)
    resumed = run(recipe, tmp_path / "resumed", 0)
    assert resumed.began_after == 2
    assert half.theta == whole.theta == resumed.theta
    assert whole.norm == pytest.approx(first.double().norm().item())
    assert half.losses + resumed.losses == whole.losses


def test_pretraining_is_plain_supervised_training():
    algorithm = Pretrain(Pretrain.Config(), model(1), mean_squared_error)
    task, theta = Task("task", numbers(1, 4), numbers(2, 6)), fresh(algorithm)
    x, y = both(task)
    gradient, score = algorithm.learn(theta, task, TRAIN)
    expected = gradient_by_hand(theta, lambda phi: F.mse_loss(network(phi, x), y))
    assert_close(gradient["model"], expected, **EXACT)
    assert_close(score.loss, F.mse_loss(network(theta["model"], x), y), **EXACT)


def test_pretraining_is_tuned_as_maml_is_judged():
    algorithm = Pretrain(Pretrain.Config(eval_inner_lr=0.1, eval_inner_steps=3), model(1), mean_squared_error)
    support, theta = numbers(1, 5), fresh(algorithm)
    phi = theta["model"]
    for adapted in tuple(algorithm.trace(theta, support, TRAIN._replace(phase="evaluate"))):
        assert_close(adapted.phi, phi, **EXACT)
        slope = gradient_by_hand({"model": phi}, lambda phi: F.mse_loss(network(phi, support.x), support.y))
        phi = {name: leaf - 0.1 * slope[name] for name, leaf in phi.items()}


def baseline(classifier: str = "linear", **changes: Any) -> Baseline:
    return Baseline(Baseline.Config(classifier=classifier, **changes), model(CLASSES), cross_entropy)


def cosines(head: Params, features: Tensor, scale: float) -> Tensor:
    return scale * F.cosine_similarity(features.unsqueeze(1), head["head/weight"].unsqueeze(0), dim=2)


def test_baseline_trains_one_classifier_of_all_classes_plainly():
    algorithm = baseline()
    task, theta = (
        Task("task", examples(1, 1, CLASSES), examples(2, 2, CLASSES), ways=CLASSES),
        fresh(algorithm),
    )
    x, y = both(task)
    gradient, _ = algorithm.learn(theta, task, TRAIN._replace(ways=CLASSES))
    assert_close(gradient["model"], gradient_by_hand(theta, lambda phi: F.cross_entropy(network(phi, x), y)), **EXACT)


def test_the_cosine_classifier():
    algorithm = baseline("cosine")
    rng = np.random.default_rng(4)
    for classes, scale in ((5, SCALE_OF_FEW), (200, SCALE_OF_FEW), (201, SCALE_OF_MANY)):
        head, z = (
            {"head/weight": torch.from_numpy(rng.normal(size=(classes, 6)))},
            torch.from_numpy(rng.normal(size=(9, 6))),
        )
        assert_close(algorithm.read_out(head, z), cosines(head, z, scale), rtol=0.0, atol=1e-6)
    nothing = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(algorithm.read_out(head, nothing).sum(), nothing)
    assert torch.isfinite(slope).all()
    assert set(fresh(algorithm)["model"]) == {"layer0/weight", "layer0/bias", "head/weight"}


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_a_fresh_head_is_trained_as_torch_would_and_the_body_stays_as_it_was(classifier):
    algorithm = baseline(classifier, eval_inner_lr=0.3, eval_inner_steps=9, eval_inner_batch=3)
    theta, support = fresh(algorithm), examples(1, 2)
    context = drawn(algorithm, Task("task", support, support, WAYS), "evaluate")
    trace = tuple(algorithm.trace(theta, support, context))
    assert len(trace) == 10
    weight = context.noise["weight"].clone().requires_grad_()
    bias = torch.zeros(WAYS, dtype=torch.float64, requires_grad=True)
    torchs = torch.optim.SGD([weight, bias], lr=0.3, momentum=0.9, dampening=0.9, weight_decay=1e-3)
    z = algorithm.body.forward_own_statistics(theta["model"], support.x)[0]
    for j, fitted in enumerate(trace):
        assert all(fitted.body.phi[name] is leaf for name, leaf in theta["model"].items())
        assert_close(fitted.head["head/weight"], weight.detach(), rtol=0.0, atol=1e-6)
        if classifier == "linear":
            assert_close(fitted.head["head/bias"], bias.detach(), **EXACT)
        if j < 9:
            rows = context.noise["batches"][j]
            logits = z[rows] @ weight.T + bias
            if classifier == "cosine":
                logits = cosines({"head/weight": weight}, z[rows], SCALE_OF_FEW)
            torchs.zero_grad()
            F.cross_entropy(logits, support.y[rows]).backward()
            torchs.step()


def test_a_head_is_fresh_for_any_number_of_ways_and_served_in_thetas_dtype():
    net = Conv4(Conv4.Config(channels=4), (1, 16, 16), 3, normalised=True)
    algorithm = Baseline(Baseline.Config(eval_inner_steps=3), NormalisedNet(net, "running", (1, 16, 16)), cross_entropy)
    theta = {group: {n: leaf.float() for n, leaf in leaves.items()} for group, leaves in fresh(algorithm).items()}
    learner = Learner(algorithm, theta, Spec(Batch, (1, 16, 16), 3, "classes", "cross_entropy"))
    x = np.random.default_rng(5).random((10, 1, 16, 16))
    predictor = learner.adapt(x, list("abcdeabcde"))
    assert predictor.outputs(x).shape == (10, 5)
    assert set(predictor.predict(x)) <= set("abcde")


def test_the_multitask_gradient_is_that_of_the_joint_minimum_once_heads_have_converged():
    """Finite differences of min over heads, which for a regression is least squares."""
    net = model(None, hidden=2)
    algorithm = Multitask(Multitask.Config(inner_steps=600), net, mean_squared_error)
    task, theta = Task("task", numbers(1, 6), numbers(2, 6)), fresh(algorithm)
    x, y = both(task)

    def joint(phi: Params) -> float:
        z = torch.cat([net.forward_own_statistics(phi, x)[0], torch.ones(len(x), 1, dtype=torch.float64)], 1)
        return (z @ torch.linalg.lstsq(z, y).solution - y).square().mean().item()

    gradient, score = algorithm.learn(theta, task, TRAIN._replace(ways=1))
    assert score.loss.item() == pytest.approx(joint(theta["model"]), abs=1e-9)
    for name, leaf in theta["model"].items():
        for index in np.ndindex(*leaf.shape):
            step = torch.zeros_like(leaf)
            step[index] = 1e-5
            up, down = (joint(theta["model"] | {name: leaf + way * step}) for way in (1, -1))
            assert gradient["model"][name][index].item() == pytest.approx((up - down) / 2e-5, abs=1e-7)


def test_a_multitask_head_starts_at_nothing_and_is_fitted_to_the_support_set():
    algorithm = Multitask(Multitask.Config(eval_inner_steps=30), model(None), cross_entropy)
    theta, support = fresh(algorithm), examples(1, 2)
    trace = tuple(algorithm.trace(theta, support, TRAIN._replace(phase="evaluate")))
    losses = [algorithm.score(fitted, support, TRAIN).loss.item() for fitted in trace]
    assert losses[0] == pytest.approx(np.log(WAYS))
    assert all(after < before for before, after in zip(losses, losses[1:], strict=False))
    assert all(fitted.body.phi[name] is leaf for fitted in trace for name, leaf in theta["model"].items())


def test_momentum_is_torchs_sgd():
    phi = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    by_torch = phi["w"].clone().requires_grad_()
    torchs = torch.optim.SGD([by_torch], lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.02)

    def loss(w: Tensor) -> Tensor:
        return (w**4).sum() + w.prod()

    for at in unroll(lambda p, j: loss(p["w"]), phi, 5, Momentum(0.1, 0.8, 0.3, 0.02), first_order=True):
        assert_close(at["w"], by_torch.detach(), **EXACT)
        torchs.zero_grad()
        loss(by_torch).backward()
        torchs.step()


def test_pairs_that_are_padding_are_in_no_mini_batch():
    """A language with fewer pairs than shots: a batch of padding alone would have a gradient of 0."""
    target = torch.tensor([[5, 1], [6, 1], [7, 1], [0, 0], [0, 0]])
    task = Task("task", Pairs(target, target), Pairs(target, target))
    for name, config in ((Finetune, {"inner_steps": 6, "inner_batch": 2}), (Pretrain, {"eval_inner_batch": 2})):
        algorithm = name(name.Config(**config), model(WAYS), cross_entropy)
        drawn = algorithm.extra_noise(np.random.default_rng(0), task, "evaluate")["batches"]
        assert set(drawn.flatten().tolist()) == {0, 1, 2}


def test_batches_use_each_shuffle_up():
    rows = batches(np.random.default_rng(1), rows=6, steps=4, batch=3)
    assert rows.shape == (4, 3)
    assert [sorted(rows[i : i + 2].flatten().tolist()) for i in (0, 2)] == [list(range(6))] * 2
    assert batches(np.random.default_rng(1), rows=2, steps=3, batch=5).shape == (3, 2)
