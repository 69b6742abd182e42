"""Memories that last across tasks: what ``fold`` makes of records, and what is left with nothing stored, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from pipeline.algorithms.gradientmemory import GradientMemoryMAML
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.metamemory import Episode, MetaMemory, triplet
from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.nets.memory.keyvalue import ABSENT, NEVER, Found
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, INPUTS, SLOTS = 3, 4, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}
TRAIN = Context(0, "train", WAYS, {"order": torch.arange(2 * WAYS)})


def model(outputs: int | None, mode: Any = "none") -> NormalisedNet:
    net = MLP(MLP.Config(hidden=(6,), activation="tanh"), (INPUTS,), outputs, normalised=mode != "none")
    return NormalisedNet(net, mode, (INPUTS,))


def metamemory(**fields: Any) -> MetaMemory:
    return MetaMemory(MetaMemory.Config(slots=SLOTS, **fields), model(None), LOSSES["cross_entropy"].function)


def gradientmemory(**fields: Any) -> GradientMemoryMAML:
    config = GradientMemoryMAML.Config(inner_lr=0.1, inner_steps=2, slots=SLOTS, **fields)
    return GradientMemoryMAML(config, model(WAYS), LOSSES["cross_entropy"].function)


def start(algorithm: Algorithm[Any, Any]) -> MetaParams:
    return pytree.tree_map(lambda leaf: leaf.double(), algorithm.init(np.random.default_rng(0)))


def task(number: int, shots: int = 2) -> Task[Batch]:
    rng = np.random.default_rng(100 + number)
    y = torch.arange(WAYS * shots) % WAYS
    x = torch.from_numpy(rng.normal(size=(2, len(y), INPUTS)))
    return Task("", Batch(x[0], y), Batch(x[1], y), WAYS)


def records(algorithm: Algorithm[Any, Any], theta: MetaParams, count: int) -> list[Params]:
    return [algorithm.learn(theta, task(number), TRAIN)[1].records for number in range(count)]


def filled(algorithm: Algorithm[Any, Any], count: int = 1) -> MetaParams:
    theta = start(algorithm)
    return theta | algorithm.fold(theta, records(algorithm, theta, count))


FORGETTING = ["lru", "none", "decay", "importance"]


@pytest.mark.parametrize("forgetting", FORGETTING)
@pytest.mark.parametrize("build", [metamemory, gradientmemory])
def test_folding_eight_tasks_is_eight_sequential_writes(build, forgetting):
    algorithm = build(forgetting=forgetting, same=0.9)
    theta = start(algorithm)
    eight = records(algorithm, theta, 8)
    at_once, one_by_one = algorithm.fold(theta, eight)["memory"], theta
    for record in eight:
        one_by_one = one_by_one | algorithm.fold(one_by_one, [record])
    assert at_once["filled"].sum() == SLOTS
    for name, leaf in one_by_one["memory"].items():
        assert torch.equal(at_once[name], leaf), name


@pytest.mark.parametrize("build", [metamemory, gradientmemory])
def test_the_order_of_records_matters(build):
    """Or the test above would say nothing."""
    algorithm = build()
    theta = start(algorithm)
    eight = records(algorithm, theta, 8)
    ahead, back = (algorithm.fold(theta, few)["memory"]["keys"] for few in (eight, eight[::-1]))
    assert not torch.equal(ahead, back)


def test_with_nothing_stored_the_lasting_memory_changes_no_embedding():
    algorithm, (_, support, query, *_) = metamemory(), task(0)
    theta = start(algorithm)
    unjoined = theta | {"integrate": theta["integrate"] | {"weight": torch.zeros_like(theta["integrate"]["weight"])}}
    empty, without = (algorithm.predict(algorithm.adapt(at, support, TRAIN), query.x) for at in (theta, unjoined))
    assert torch.equal(empty, without)
    full = filled(algorithm)
    assert not torch.equal(algorithm.predict(algorithm.adapt(full, support, TRAIN), query.x), without)


def test_of_one_shot_the_answer_is_the_class_of_the_nearest_by_cosine():
    algorithm, (_, support, query, *_) = metamemory(), task(0, shots=1)
    theta = start(algorithm)
    z, q = (
        torch.nn.functional.normalize(algorithm.model.forward_own_statistics(theta["model"], x)[0])
        for x in (support.x, query.x)
    )
    one_shot = TRAIN._replace(noise={"order": torch.arange(WAYS)})
    answers = algorithm.predict(algorithm.adapt(theta, support, one_shot), query.x)
    assert_close(answers, 40 * q @ z.T, **EXACT)


@pytest.mark.parametrize("order", ["by class", "drawn"])
def test_any_number_of_classes_can_be_the_answer(order):
    """40 classes in an episode of 32 slots, each with two examples of which the second is a surprise."""
    ways, shots = 40, 2
    algorithm = metamemory()
    rng = np.random.default_rng(5)
    support = Batch(torch.from_numpy(rng.normal(size=(ways * shots, INPUTS))), torch.arange(ways).repeat_interleave(2))
    drawn = algorithm.draw(np.random.default_rng(6), Task("", support, support, ways), "serve")
    noise = drawn if order == "drawn" else {"order": torch.arange(ways * shots)}
    adapted = algorithm.adapt(start(algorithm), support, Context(0, "serve", ways, noise))
    stored = adapted.episode["values"]
    assert stored.sum(0).min() >= 1, "a class was lost"
    assert stored.sum() == len(stored) == ways + 1, "the memory should be full"
    asked = algorithm.predict(adapted, support.x)
    assert (asked > NEVER / 2).all(), "a class has no slot to be answered by"


def test_a_support_set_is_written_in_the_order_that_the_ticket_draws():
    algorithm, (_, support, query, *_) = metamemory(episode_slots=1), task(0, shots=4)
    noise = algorithm.draw(np.random.default_rng(4), Task("", support, query, WAYS), "train")
    order, as_it_is = noise["order"], {"order": torch.arange(len(support.y))}
    assert sorted(order.tolist()) == list(range(len(support.y))) != order.tolist()
    theta, permuted = start(algorithm), Batch(support.x[order], support.y[order])
    drawn, by_hand, in_order = (
        algorithm.predict(algorithm.adapt(theta, shown, TRAIN._replace(noise=noise)), query.x)
        for shown, noise in ((support, noise), (permuted, as_it_is), (support, as_it_is))
    )
    assert_close(drawn, by_hand, **EXACT)
    assert not torch.allclose(drawn, in_order)


def test_lasting_keys_are_support_means_and_values_query_means():
    algorithm, (_, support, query, *_) = metamemory(), task(0)
    memory = filled(algorithm)["memory"]
    phi = start(algorithm)["model"]
    of_support, of_query = (
        torch.stack([algorithm.model.forward_own_statistics(phi, x)[0][y == slot].mean(0) for slot in range(WAYS)])
        for x, y in (support, query)
    )
    assert_close(memory["keys"][:WAYS], torch.nn.functional.normalize(of_support), **EXACT)
    assert_close(memory["values"][:WAYS], of_query, **EXACT)
    assert memory["filled"].tolist() == [1, 1, 1, 0, 0]


def test_answers_are_a_softmax_over_the_nearest():
    """Cosines .9 (class 0), .8 and .7 (class 1): the nearest three at sharpness 2; the slot of .1 plays no part."""
    cosine = torch.tensor([0.7, 0.9, 0.1, 0.8], dtype=torch.float64)
    labels = torch.eye(WAYS, dtype=torch.float64)[[1, 0, 2, 1]]
    logits = Episode(3, 2.0).integrate({}, None, Found(cosine, labels))  # type: ignore[arg-type]
    share = (2 * torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64)).softmax(0)
    expected = torch.stack([share[0], share[1] + share[2], torch.zeros_like(share[0])])
    assert_close(logits.softmax(0), expected, **EXACT)


def test_the_memory_loss_is_a_margin_between_the_nearest_right_and_the_nearest_wrong():
    cosine = torch.tensor([[0.7, 0.9, 0.2, ABSENT], [0.9, 0.1, 0.3, ABSENT]], dtype=torch.float64)
    labels = torch.eye(WAYS, dtype=torch.float64)[[0, 1, 0, 0]] * torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    of_0 = torch.eye(WAYS, dtype=torch.float64)[[0, 0]]
    loss = triplet(Found(cosine, labels), of_0, 0.1)
    assert_close(loss, torch.tensor((0.9 - 0.7 + 0.1 + 0.0) / 2, dtype=torch.float64), **EXACT)


def test_with_nothing_stored_gradient_memory_is_maml_to_the_bit():
    remembering = gradientmemory()
    maml = MAML(MAML.Config(inner_lr=0.1, inner_steps=2), remembering.model, remembering.loss)
    theta = start(remembering)
    (found, score), (expected, plain) = (one.learn(theta, task(0), TRAIN) for one in (remembering, maml))
    assert torch.equal(score.loss, plain.loss)
    assert all(torch.equal(found["model"][name], leaf) for name, leaf in expected["model"].items())
    assert found["start"]["deltas"].abs().sum() > 0, "M_0 should learn although nothing is stored"


def test_what_is_stored_is_where_the_same_task_starts_from():
    """With an attention sharp enough, phi_0 of a task that is stored is its phi_k, in the head."""
    algorithm, few = gradientmemory(), task(0)
    theta = filled(algorithm)
    theta["start"]["sharpness"] = torch.tensor(1e4, dtype=torch.float64)
    warm, cold = (tuple(algorithm.inner_trajectory(at, few.support, TRAIN)) for at in (theta, start(algorithm)))
    for name in ("head/weight", "head/bias"):
        assert_close(warm[0][name], cold[-1][name], **EXACT)
    assert torch.equal(warm[0]["layer0/weight"], cold[0]["layer0/weight"])


def test_a_task_embedding_is_the_gradient_of_the_head_and_knows_no_order():
    algorithm, (_, support, *_) = gradientmemory(), task(0)
    theta = start(algorithm)
    key = algorithm.embed(theta, support)
    h, outputs = (
        algorithm.model.embed(theta["model"], support.x),
        algorithm.model.forward_own_statistics(theta["model"], support.x)[0],
    )
    residual = (outputs.softmax(1) - torch.eye(WAYS, dtype=torch.float64)[support.y]) / len(support.y)
    assert_close(key, torch.cat([residual.sum(0), (residual.T @ h).reshape(-1), torch.ones(1).double()]), **EXACT)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert_close(algorithm.embed(theta, Batch(support.x[order], support.y[order])), key, **EXACT)


def test_the_same_task_again_is_a_hit_and_another_is_a_miss():
    algorithm = gradientmemory()
    theta = start(algorithm)
    first, second = records(algorithm, theta, 2)
    memory = algorithm.fold(theta, [first, second, first])["memory"]
    assert memory["uses"].tolist() == [2, 1, 0, 0, 0]


def differences(algorithm: Algorithm[Any, Any], theta: MetaParams, group: str, name: str) -> tuple[Tensor, Tensor]:
    """The slope of the objective along one direction: as ``learn`` gives it, and by central differences."""
    few, step = task(1), 1e-5  # where rounding, which weighs more at 1e-6, and curvature weigh alike
    leaf = theta[group][name]
    way = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0), dtype=leaf.dtype)
    moved = [theta | {group: theta[group] | {name: leaf + sign * step * way}} for sign in (1, -1)]
    above, below = (algorithm.objective(at, few, TRAIN).loss for at in moved)  # type: ignore[attr-defined]
    return (algorithm.learn(theta, few, TRAIN)[0][group][name] * way).sum(), (above - below) / (2 * step)


@pytest.mark.parametrize(
    ("build", "group", "name"),
    [
        (metamemory, "integrate", "weight"),
        (metamemory, "integrate", "sharpness"),
        (metamemory, "model", "layer0/weight"),
        (gradientmemory, "start", "keys"),
        (gradientmemory, "start", "sharpness"),
        (gradientmemory, "model", "head/weight"),
    ],
)
def test_the_gradient_goes_through_retrieval_from_a_full_memory(build, group, name):
    algorithm = build(same=1.0)
    claimed, measured = differences(algorithm, filled(algorithm, 6), group, name)
    assert claimed.abs() > 1e-9
    assert_close(claimed, measured, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("build", [MetaMemory, GradientMemoryMAML])
def test_running_statistics_are_refused(build):
    with pytest.raises(ConfigError, match="running"):
        build(build.Config(), model(WAYS, "running"), LOSSES["cross_entropy"].function)
