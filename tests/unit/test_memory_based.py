"""Methods that adapt by reading: when labels are shown, and that queries are answered without being read."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline.algorithms import ALGORITHMS
from pipeline.core.failures import ConfigError
from pipeline.core.losses import cross_entropy
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Context, MetaParams, Stream, Task
from pipeline.families.memory import MemoryBased, accuracy_by_instance
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.serving.learner import Learner
from tests.contract.cases import small

pytestmark = pytest.mark.usefixtures("torch_threads")

WAYS, STEPS, INPUTS = 3, 9, 5
EXACT = {"rtol": 0.0, "atol": 1e-12}
NAMES = [name for name, kind in ALGORITHMS.items() if issubclass(kind, MemoryBased)]
CONTEXT = Context(0, "evaluate", WAYS, {})


def made(name: str, mode: str = "none", hidden: tuple[int, ...] = (), **settings: Any) -> MemoryBased:
    net = MLP(MLP.Config(hidden=hidden), (INPUTS,), WAYS, normalised=False)
    config = replace(small(ALGORITHMS[name].Config), **settings)
    return ALGORITHMS[name](config, NormalisedNet(net, mode, (INPUTS,)), cross_entropy)


def theta_of(algorithm: MemoryBased) -> MetaParams:
    """Not as it starts, where a memory is all but empty."""
    rng = np.random.default_rng(1)
    leaves = algorithm.init(rng)["model"]
    return {
        "model": {n: leaf.double() + torch.from_numpy(rng.normal(0, 0.3, leaf.shape)) for n, leaf in leaves.items()}
    }


def sequence(steps: int = STEPS) -> Stream:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(STEPS, INPUTS)), rng.permutation(np.arange(STEPS) % WAYS)
    return Stream(torch.from_numpy(x[:steps]), torch.from_numpy(y[:steps]))


def logits(algorithm: MemoryBased, theta: MetaParams, of: Stream) -> Tensor:
    """The outputs that the loss is given."""
    told, seen = copy.copy(algorithm), []
    told.loss = lambda outputs, y: seen.append(outputs) or algorithm.loss(outputs, y)
    told.score(told.adapt(theta, Stream(of.x[:0], of.y[:0]), CONTEXT), of, CONTEXT)
    return seen[0]


@pytest.fixture(params=[*NAMES, *(f"{name}, label alone" for name in NAMES)])
def algorithm(request) -> MemoryBased:
    name, _, alone = request.param.partition(", ")
    return made(name, previous="label" if alone else "example")


def test_there_are_methods_that_read():
    assert set(NAMES) >= {"mann", "ntm", "memoryrnn", "memorygated"}


@pytest.mark.parametrize("changed", range(STEPS))
def test_a_label_is_shown_one_step_after_its_answer(algorithm, changed):
    theta, of = theta_of(algorithm), sequence()
    y = of.y.clone()
    y[changed] = (y[changed] + 1) % WAYS
    before, after = logits(algorithm, theta, of), logits(algorithm, theta, Stream(of.x, y))
    assert torch.equal(before[: changed + 1], after[: changed + 1]), "an answer knew the label of its own step"
    moved = (before[changed + 1 :] - after[changed + 1 :]).abs().amax(1)
    assert (moved > 1e-9).all(), "a label that was shown changed nothing"


@pytest.mark.parametrize("previous", ["example", "label"])
def test_beside_an_image_stands_the_one_before_with_its_label_or_as_published_its_label_alone(previous):
    algorithm, of = made("memoryrnn", previous=previous), sequence()
    theta, labels = theta_of(algorithm), torch.eye(WAYS, dtype=torch.float64)[of.y]
    before = labels if previous == "label" else torch.cat([of.x, labels], 1)
    inputs = torch.cat([of.x, torch.cat([torch.zeros_like(before[:1]), before[:-1]])], 1)
    phi, model = theta["model"], algorithm.sequence_model
    states = model.cell.read(phi, inputs.unbind(), model.start(phi))
    expected = torch.stack([state["h"] for state in states]) @ phi["head/weight"].T + phi["head/bias"]
    assert_close(logits(algorithm, theta, of), expected, **EXACT)


@pytest.mark.parametrize(("slots", "alike"), [(STEPS + 1, True), (3, False)])
def test_what_is_forgotten_decides_where_a_stream_is_longer_than_the_memory_and_nowhere_else(slots, alike):
    answers = []
    for forgetting in ("none", "lru", "importance"):
        algorithm = made("mann", slots=slots, forgetting=forgetting)
        answers.append(logits(algorithm, theta_of(algorithm), sequence()))
    assert all(torch.equal(one, other) is alike for one, other in combinations(answers, 2))


def test_a_query_after_a_sequence_is_its_next_step(algorithm):
    theta, of = theta_of(algorithm), sequence()
    expected = logits(algorithm, theta, of)
    for step in range(STEPS):
        adapted = algorithm.adapt(theta, Stream(of.x[:step], of.y[:step]), CONTEXT)
        assert_close(algorithm.predict(adapted, of.x[step:])[0], expected[step], **EXACT)


def test_a_sequence_goes_on_after_its_support_set(algorithm):
    theta, of = theta_of(algorithm), sequence()
    adapted = algorithm.adapt(theta, Stream(of.x[:4], of.y[:4]), CONTEXT)
    rest = Stream(of.x[4:], of.y[4:])
    expected = cross_entropy(logits(algorithm, theta, of)[4:], rest.y)
    assert_close(algorithm.score(adapted, rest, CONTEXT).loss, expected.loss, **EXACT)


def test_a_support_set_is_read_in_an_order_that_the_ticket_draws(algorithm):
    theta, of = theta_of(algorithm), sequence()
    task = Task("", Batch(*of), Batch(*of), WAYS)
    noise = algorithm.draw(np.random.default_rng(4), task, "train")
    order = noise["order"]
    assert sorted(order.tolist()) == list(range(STEPS)) != order.tolist()
    adapted = algorithm.adapt(theta, task.support, CONTEXT._replace(noise=noise))
    as_it_is = CONTEXT._replace(noise={"order": torch.arange(STEPS)})
    in_order = algorithm.adapt(theta, Batch(of.x[order], of.y[order]), as_it_is)
    assert_close(algorithm.predict(adapted, of.x), algorithm.predict(in_order, of.x), **EXACT)
    other = algorithm.adapt(theta, Batch(of.x[order], of.y), as_it_is)
    assert (algorithm.predict(adapted, of.x) - algorithm.predict(other, of.x)).abs().max() > 1e-6
    assert algorithm.draw(np.random.default_rng(4), Task("", of, of, WAYS), "train") == {}


def test_what_was_read_in_one_task_is_not_there_in_the_next(algorithm):
    theta, of = theta_of(algorithm), sequence()
    first = logits(algorithm, theta, of)
    logits(algorithm, theta, Stream(of.x.flip(0), of.y.flip(0)))
    assert torch.equal(logits(algorithm, theta, of), first)


def test_accuracy_is_counted_by_instance():
    y = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1, 2])
    answers = torch.tensor([0, 0, 0, 2, 1, 1, 2, 0, 2])
    found = accuracy_by_instance(torch.eye(WAYS)[answers], y, WAYS, y[:0])
    assert {name: round(value.item() * WAYS) for name, value in found.items()} == {
        "accuracy_1": 2,
        "accuracy_2": 3,
        "accuracy_3": 1,
    }


def test_the_instances_of_the_support_set_are_counted():
    y = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1, 2])
    answers = torch.tensor([0, 0, 0, 2, 1, 0])
    found = accuracy_by_instance(torch.eye(WAYS)[answers], y[3:], WAYS, y[:3])
    assert {name: round(value.item() * WAYS) for name, value in found.items()} == {"accuracy_2": 2, "accuracy_3": 2}


def test_after_two_shots_the_first_answer_is_to_a_third_image(algorithm):
    theta, of = theta_of(algorithm), sequence()
    order = of.y.argsort(stable=True).reshape(WAYS, -1).T.flatten()
    x, y = of.x[order], of.y[order]
    score = algorithm.score(algorithm.adapt(theta, Stream(x[:6], y[:6]), CONTEXT), Stream(x[6:], y[6:]), CONTEXT)
    assert set(score.metrics) == {"accuracy", "accuracy_3"}
    assert_close(score.metrics["accuracy_3"], score.metrics["accuracy"], **EXACT)


def test_a_sequences_metrics_are_its_accuracy_and_that_of_each_instance(algorithm):
    theta, of = theta_of(algorithm), sequence()
    score = algorithm.score(algorithm.adapt(theta, Stream(of.x[:0], of.y[:0]), CONTEXT), of, CONTEXT)
    by_instance = [score.metrics[f"accuracy_{k}"] for k in (1, 2, 3)]
    assert set(score.metrics) == {"accuracy", "accuracy_1", "accuracy_2", "accuracy_3"}
    assert_close(torch.stack(by_instance).mean(), score.metrics["accuracy"], **EXACT)


def test_who_trained_on_sequences_serves_support_sets(algorithm):
    theta, of = theta_of(algorithm), sequence()
    learner = Learner(algorithm, theta, Spec(Stream, (INPUTS,), WAYS, "slots", "cross_entropy"))
    predictor = learner.adapt(of.x.numpy(), [("b", "a", "c")[slot] for slot in of.y])
    assert set(predictor.predict(of.x.numpy())) <= {"a", "b", "c"}
    first = torch.tensor([predictor.labels.index(("b", "a", "c")[slot]) for slot in of.y])
    expected = algorithm.predict(algorithm.adapt(theta, Stream(of.x, first), CONTEXT), of.x)
    assert_close(torch.from_numpy(predictor.outputs(of.x.numpy())), expected, **EXACT)


@pytest.mark.parametrize("mode", ["transductive", "support", "running", "one_query"])
def test_normalisation_by_examples_not_shown_yet_is_refused(mode):
    with pytest.raises(ConfigError, match=rf"normalisation: '{mode}' looks at a batch, and MANN sees one .*; use none"):
        made("mann", mode, (4,))


def test_raw_inputs_have_no_layer_and_an_embedding_without_one_is_refused():
    assert not [name for name in made("mann").init(np.random.default_rng(0))["model"] if name.startswith("layer")]
    with pytest.raises(ConfigError, match=r"net\.hidden: \[\], but an embedding without layers has nothing to learn"):
        MLP(MLP.Config(hidden=()), (INPUTS,), None, normalised=False)
