"""OML and ANML against closed forms: a linear head that learns a stream by least mean squares (float64).

With features f_j = B x_j and the loss (w·f_j - y_j)², w_k = M w_0 + c, where M is the product of I - 2 alpha f_j f_jᵀ.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.algorithms import ALGORITHMS
from pipeline.core.batches import in_order, part_ends
from pipeline.core.failures import ConfigError
from pipeline.core.losses import cross_entropy, mean_squared_error
from pipeline.core.types import Batch, Context, Params, Task
from pipeline.engine.trace import scored_points
from pipeline.families.gradient import BATCHES
from pipeline.families.online import FRESH, SHOWN, OnlineConfig
from pipeline.nets.gated import GATE, Gated
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS, INPUTS, FEATURES, RATE = 6, 4, 3, 0.05


class LinearBody(Net):
    """Features B x, and a linear head on them."""

    Config: ClassVar[type] = type(None)

    def __init__(self, outputs):
        self.outputs, self.feature_shape = outputs, (FEATURES,)

    def init(self, rng):
        return {"body": torch.from_numpy(rng.normal(size=(FEATURES, INPUTS)) / 2)} | self.init_head(rng, FEATURES)

    def embed(self, params, x, normalise):
        return x @ params["body"].T


class Made(NamedTuple):
    algorithm: object
    theta: dict[str, Params]
    task: Task
    context: Context


def made(name="oml", outputs=1, ways=1, mode="none", phase="train", **changes):
    loss = mean_squared_error if outputs == 1 else cross_entropy
    config = OnlineConfig(**{"inner_lr": RATE} | changes)
    algorithm = ALGORITHMS[name](config, NormalisedNet(LinearBody(outputs), mode, (INPUTS,)), loss)
    rng = np.random.default_rng(3)
    theta = {group: {leaf: v.double() for leaf, v in leaves.items()} for group, leaves in algorithm.init(rng).items()}

    def examples(rows):
        x = torch.from_numpy(rng.normal(size=(rows, INPUTS)))
        return Batch(x, torch.from_numpy(rng.normal(size=(rows, 1)) if outputs == 1 else rng.integers(ways, size=rows)))

    task = Task("stream", examples(STEPS), examples(5), ways)
    return Made(algorithm, theta, task, context(algorithm, task, phase))


def context(algorithm, task, phase="train"):
    return Context(1, phase, task.ways, algorithm.draw(np.random.default_rng(7), task, phase))


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def closed_form(features: Tensor, y: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """M and w_k of a head [features and 1] on features with a 1 behind them."""
    product, w = torch.eye(FEATURES + 1, dtype=torch.float64), head
    for f, target in zip(features, y.squeeze(1), strict=True):
        step = torch.eye(FEATURES + 1, dtype=torch.float64) - 2 * RATE * torch.outer(f, f)
        product, w = step @ product, step @ w + 2 * RATE * target * f
    return product, w


def with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def test_a_linear_head_learns_a_stream_by_least_mean_squares():
    algorithm, theta, (_, support, query, *_), drawn = made()
    model = theta["model"]
    head = torch.cat([model["head/weight"].flatten(), model["head/bias"]])
    product, wanted = closed_form(with_one(support.x @ model["body"].T), support.y, head)
    phi = algorithm.last(theta, support, drawn)
    found = torch.cat([phi["head/weight"].flatten(), phi["head/bias"]])
    assert largest(found, wanted) < 1e-14
    assert phi["body"] is model["body"], "the representation is fixed in the inner loop"

    gradient, _ = algorithm.learn(theta, Task("stream", support, query), drawn)
    f = with_one(query.x @ model["body"].T)
    at_the_end = 2 * f.T @ (f @ wanted - query.y.squeeze(1)) / len(f)
    claimed = torch.cat([gradient["model"]["head/weight"].flatten(), gradient["model"]["head/bias"]])
    assert largest(claimed, product.T @ at_the_end) < 1e-13


def query_loss(body: Tensor, case: Made, detach_after: int | None = None) -> Tensor:
    """The loss after the stream as a function of the representation. Wrong variants detach: each inner gradient's
    dependence on it (0), or the head after so many steps."""
    (_, support, query, *_), model = case.task, case.theta["model"]
    f, w = with_one(support.x @ body.T), torch.cat([model["head/weight"].flatten(), model["head/bias"]])
    for j in range(STEPS):
        slope = 2 * (f[j] @ w - support.y[j, 0]) * f[j]
        w = w - RATE * (slope.detach() if detach_after == 0 else slope)
        if detach_after and (j + 1) % detach_after == 0:
            w = w.detach()
    return (with_one(query.x @ body.T) @ w - query.y.squeeze(1)).square().mean()


def test_the_representation_gets_the_gradient_through_all_steps():
    """First order, and truncation after every second step, are other gradients."""
    case = made()
    gradient, score = case.algorithm.learn(case.theta, case.task, case.context)
    claimed, body = gradient["model"]["body"], case.theta["model"]["body"]
    assert largest(score.loss, query_loss(body, case)) < 1e-14
    assert largest(claimed, torch.func.grad(query_loss)(body, case)) < 1e-13
    for place in np.ndindex(*body.shape):
        step = torch.zeros_like(body)
        step[place] = 1e-6
        measured = (query_loss(body + step, case) - query_loss(body - step, case)) / 2e-6
        assert abs(float(claimed[place] - measured)) < 1e-7
    for wrong in (0, 2):
        other = torch.func.grad(query_loss)(body, case, wrong)
        assert (claimed - other).norm() / claimed.norm() > 0.1


@pytest.mark.parametrize("name", ["oml", "anml"])
def test_the_order_of_a_stream_matters_and_that_of_the_queries_does_not(name):
    algorithm, theta, task, drawn = made(name)
    back = Batch(*(part.flip(0) for part in task.support))
    first, second = (algorithm.last(theta, one, drawn)["head/weight"] for one in (task.support, back))
    assert largest(first, second) > 1e-4
    gradients = [
        algorithm.learn(theta, task._replace(query=query), drawn)[0]["model"]["body"]
        for query in (task.query, Batch(*(part.flip(0) for part in task.query)))
    ]
    assert largest(*gradients) < 1e-14


@pytest.mark.parametrize("name", ["oml", "anml"])
def test_at_a_rate_of_nothing_it_is_multi_task_training(name):
    algorithm, theta, task, drawn = made(name, inner_lr=1e-200)
    gradient, _ = algorithm.learn(theta, task, drawn)

    def plain(model: Params) -> Tensor:
        return algorithm.loss(algorithm.model.outputs(model, task.query), task.query.y).loss

    wanted = torch.func.grad(plain)(theta["model"])
    assert max(largest(gradient["model"][leaf], wanted[leaf]) for leaf in wanted) < 1e-14


def test_classes_of_a_stream_have_fresh_rows_of_the_head():
    """In training among all classes, whose other rows stay; at evaluation they are all that the head has."""
    algorithm, theta, task, drawn = made(outputs=9, ways=3)
    shown = drawn.noise[SHOWN].tolist()
    assert shown == sorted(set(task.support.y.tolist()))
    start = algorithm.start(theta["model"], drawn)
    others = [row for row in range(9) if row not in shown]
    assert torch.equal(start["head/weight"][shown], drawn.noise[FRESH])
    assert torch.equal(start["head/weight"][others], theta["model"]["head/weight"][others])
    gradient = algorithm.learn(theta, task, drawn)[0]["model"]["head/weight"]
    assert not gradient[shown].any()
    assert gradient[others].abs().min() > 0

    later = context(algorithm, task, "evaluate")
    assert torch.equal(algorithm.start(theta["model"], later)["head/weight"], later.noise[FRESH])
    assert algorithm.predict(algorithm.adapt(theta, task.support, later), task.query.x).shape == (5, 3)


def test_a_classifier_s_head_is_one_linear_layer():
    """Fresh rows are of that layer; a regression's head may be anything."""

    class Deep(LinearBody):
        def init(self, rng):
            return super().init(rng) | {"head/0/weight": torch.ones(FEATURES, FEATURES)}

    model, loss = NormalisedNet(Deep(9), "none", (INPUTS,)), cross_entropy
    algorithm = ALGORITHMS["oml"](OnlineConfig(), model, loss)
    task = made(outputs=9, ways=3).task
    with pytest.raises(
        ConfigError, match=r"net.head: OML gives .* head has .*head/0/weight \[3, 3\]; name one linear"
    ) as caught:
        context(algorithm, task)
    assert "\n" not in str(caught.value)
    context(ALGORITHMS["oml"](OnlineConfig(), NormalisedNet(Deep(1), "none", (INPUTS,)), loss), made().task)


def test_a_network_s_fixed_leaves_stay_fixed_under_gates():
    class Fixed(LinearBody):
        def is_adapted(self, leaf):
            return leaf != "body"

    net = Gated(Fixed(1))
    assert [leaf for leaf in net.init(np.random.default_rng(0)) if net.is_adapted(leaf)] == ["head/weight", "head/bias"]


def test_gates_multiply_the_features_and_stay():
    algorithm, theta, task, drawn = made("anml")
    model, x = theta["model"], task.support.x
    wanted = (x @ model["body"].T) * torch.sigmoid(x @ model[f"{GATE}body"].T)
    assert largest(algorithm.model.embed(model, x), wanted) < 1e-15
    phi = algorithm.last(theta, task.support, drawn)
    assert phi[f"{GATE}body"] is model[f"{GATE}body"]
    assert largest(phi["body"], model["body"]) > 1e-4
    gradient, _ = algorithm.learn(theta, task, drawn)
    assert gradient["model"][f"{GATE}body"].abs().min() > 0


def test_a_stream_of_mini_batches_is_in_order_and_evaluation_has_a_rate_of_its_own():
    assert in_order(6, 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    for rows in (7, 2):  # no example of a stream is left out
        with pytest.raises(ConfigError, match=f"algorithm.inner_batch: 3, and a stream has {rows} examples"):
            in_order(rows, 3)
    algorithm, theta, task, drawn = made(inner_batch=2, eval_inner_lr=0.5)
    assert algorithm.steps(drawn) == STEPS // 2
    steps = [algorithm.last(theta, task.support, drawn._replace(phase=phase)) for phase in ("train", "evaluate")]
    same = made(inner_batch=2, inner_lr=0.5)
    assert largest(steps[1]["head/weight"], same.algorithm.last(theta, task.support, drawn)["head/weight"]) < 1e-15
    assert largest(*(one["head/weight"] for one in steps)) > 1e-3


def test_an_evaluation_scores_the_ends_of_a_stream_s_parts():
    algorithm, theta, task, drawn = made(outputs=9, ways=3, phase="evaluate")
    assert algorithm.milestones(drawn) == (2, 4, 6)
    points = scored_points(algorithm.trace(theta, task.support, drawn), algorithm.milestones(drawn))
    assert list(points) == [0, 2, 4, 6]
    whole = algorithm.adapt(theta, task.support, drawn)
    assert torch.equal(points[6].phi["head/weight"], whole.phi["head/weight"])
    # Of many parts some are scored, by their number; a step over two parts ends with the second.
    assert list(scored_points(range(301), part_ends(300, 30))) == [0, 10, 20, 50, 100, 200, 300]
    assert part_ends(2, 4) == (0, 1, 1, 2)


def test_shuffled_passes_take_the_place_of_the_stream_at_evaluation():
    """The iid oracle: every example as often, in the order of a shuffle, by the same steps."""
    case = made(eval_shuffles=3, phase="evaluate")
    rows = case.context.noise[BATCHES]
    assert [sorted(one) for one in rows.view(3, STEPS).tolist()] == [list(range(STEPS))] * 3
    assert case.algorithm.milestones(case.context) == ()
    seen, plain = case.task.support, made(phase="evaluate")
    stream = Batch(*(part[rows.flatten()] for part in seen))
    longer = plain.context._replace(noise={BATCHES: in_order(3 * STEPS, 1)})
    phi, wanted = case.algorithm.last(case.theta, seen, case.context), plain.algorithm.last(plain.theta, stream, longer)
    assert largest(phi["head/weight"], wanted["head/weight"]) < 1e-15
    assert torch.equal(made(eval_shuffles=3).context.noise[BATCHES], in_order(STEPS, 1)), "training is on streams"


def test_a_pretrained_head_learns_a_stream_as_oml_s_and_its_training_is_plain():
    """All classes of a training task are labels of one classifier: no row is fresh, and no step is taken."""
    case = made("oml", outputs=9, ways=9)
    config = ALGORITHMS["online_head"].Config(eval_inner_lr=RATE)
    plain = ALGORITHMS["online_head"](config, case.algorithm.model, cross_entropy)
    gradient, _ = plain.learn(case.theta, case.task, context(plain, case.task))
    (_, support, query, *_), model = case.task, case.theta["model"]
    everything = Batch(torch.cat([support.x, query.x]), torch.cat([support.y, query.y]))

    def loss(params: Params) -> Tensor:
        return cross_entropy(case.algorithm.model.outputs(params, everything), everything.y).loss

    wanted = torch.func.grad(loss)(model)
    assert max(largest(gradient["model"][leaf], wanted[leaf]) for leaf in wanted) < 1e-15
    heads = [one.last(case.theta, support, context(one, case.task, "evaluate")) for one in (plain, case.algorithm)]
    assert torch.equal(heads[0]["head/weight"], heads[1]["head/weight"])
    assert heads[0]["head/weight"].shape == (9, FEATURES)


@pytest.mark.parametrize("name", ["oml", "anml"])
def test_a_normalisation_that_looks_at_a_batch_is_refused(name):
    with pytest.raises(ConfigError, match="normalisation: 'support' looks at a batch"):
        made(name, mode="support")
