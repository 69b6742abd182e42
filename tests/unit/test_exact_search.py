"""Search spaces and the methods that search them, against closed forms and finite differences (float64).

Each property is shown to fail for the variant that gets it wrong.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.algorithms import ALGORITHMS
from pipeline.algorithms.ridge import ridge
from pipeline.core.failures import ConfigError
from pipeline.core.flat import join, split
from pipeline.core.losses import cross_entropy, mean_squared_error
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.core.types import Batch, Context, MetaParams, Task
from pipeline.families.gradient import BATCHES
from pipeline.nets import NETS
from pipeline.nets.model import NormalisedNet
from pipeline.nets.normalisation import NoStatistics
from pipeline.nets.search_space import SHARES, architecture, cell_of, shares, strongest
from pipeline.serving.learner import Learner
from pipeline.tasks.sinusoid import Sinusoid

pytestmark = pytest.mark.usefixtures("torch_threads")

SPACES = {"function_cells": (1,), "image_cells": (1, 8, 8)}
CELLS = [(space, cell) for space in SPACES for cell in itertools.product(NETS[space].ops, repeat=2)]
SMALL = {"image_cells": {"channels": 2}, "function_cells": {}}
CERTAIN = 1000.0
"""Logits this far apart make shares of exactly 0 and 1."""


class Made(NamedTuple):
    algorithm: object
    theta: MetaParams
    task: Task
    context: Context


def net(space, cell, outputs=2):
    config = NETS[space].Config(cell=cell, **SMALL[space])
    return NETS[space](config, SPACES[space], outputs, normalised=space == "image_cells")


def made(name, space="function_cells", cell=None, phase="train", **changes):
    """An algorithm on a search space, with one random task in float64."""
    kind, regression = ALGORITHMS[name], space == "function_cells"
    of = net(space, cell, (1 if regression else 2) if kind.needs.head else None)
    mode, loss = ("none", mean_squared_error) if regression else ("transductive", cross_entropy)
    algorithm = kind(kind.Config(**changes), NormalisedNet(of, mode, SPACES[space]), loss)
    rng = np.random.default_rng(4)
    theta = pytree.tree_map(lambda leaf: leaf.double(), algorithm.init(rng))

    def examples(rows):
        x = torch.from_numpy(rng.normal(size=(rows, *SPACES[space])) * (3 if regression else 1))
        return Batch(x, torch.sin(x) * 2 + x if regression else torch.arange(rows) % 2)

    task = Task("one", examples(6), examples(4), 1 if regression else 2)
    noise = algorithm.draw(np.random.default_rng(7), task, phase)
    return Made(algorithm, theta, task, Context(1, phase, task.ways, noise))


def certain(space, cell):
    """Logits that leave all of each edge to the op of this cell."""
    return architecture(torch.tensor([[CERTAIN * (op == name) for op in NETS[space].ops] for name in cell]).double())


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize(("space", "cell"), CELLS)
def test_an_edge_whose_logits_are_certain_is_the_op_itself(space, cell):
    mixed, alone = net(space, None), net(space, cell)
    weights = {name: leaf.double() for name, leaf in mixed.init_weights(np.random.default_rng(1)).items()}
    own = {name: weights[name] for name in alone.init(np.random.default_rng(1))}
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, *SPACES[space])))
    outputs = [
        of(weights | parts, x, NoStatistics()) for of, parts in ((mixed, shares(certain(space, cell))), (alone, {}))
    ]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    assert cell_of(mixed, shares(certain(space, cell))) == cell
    assert alone.cell == cell
    assert set(own) <= set(weights)
    even = mixed(weights | shares(architecture(torch.zeros(2, 4).double())), x, NoStatistics())
    assert largest(even, outputs[0]) > 1e-3


def test_a_temperature_near_nothing_leaves_the_largest_logit():
    logits = architecture(torch.from_numpy(np.random.default_rng(3).normal(size=(2, 4))))
    cold, hot = shares(logits, 1e-5), shares(logits, 1e5)
    picked = strongest(shares(logits))
    assert all(torch.equal(cold[name], picked[name]) for name in picked)
    assert all(largest(row, torch.full_like(row, 0.25)) < 1e-4 for row in hot.values())
    assert [int(row.argmax()) for row in picked.values()] == [int(row.argmax()) for row in logits.values()]


@pytest.mark.parametrize(("first_order", "right"), [(False, True), (True, False)])
def test_the_architecture_s_gradient_is_that_of_the_whole_inner_loop(first_order, right):
    """By finite differences in each logit and each weight of the head; first order is another gradient."""
    case = made("tnas", first_order=first_order, inner_lr=0.1, arch_lr=0.5, inner_steps=3)
    gradient, _ = case.algorithm.learn(case.theta, case.task, case.context)
    worst = 0.0
    for group, leaves in gradient.items():
        for name, slope in leaves.items():
            for place in np.ndindex(*slope.shape):
                moved = []
                for sign in (1, -1):
                    leaf = case.theta[group][name].clone()
                    leaf[place] += sign * 1e-6
                    theta = case.theta | {group: case.theta[group] | {name: leaf}}
                    moved.append(float(case.algorithm.objective(theta, case.task, case.context).loss))
                worst = max(worst, abs(float(slope[place]) - (moved[0] - moved[1]) / 2e-6))
    assert (worst < 1e-7) == right
    assert right or worst > 1e-2


def stacked(case: Made, variant: str) -> Tensor:
    """theta - phi of plain Adam without momentum on one vector of weights and logits, written out.

    Wrong variants hold the logits fixed, or never let the temperature fall.
    """
    config, rows = case.algorithm.config, case.context.noise[BATCHES]
    start = case.theta["model"] | case.theta["arch"]
    order = {name: torch.full_like(leaf, float(name.startswith("arch/"))) for name, leaf in start.items()}
    of_arch = join(order)
    rates = of_arch * (0.0 if variant == "fixed" else config.arch_lr) + (1 - of_arch) * config.inner_lr
    v, second = join(start), torch.zeros_like(of_arch)
    for j in range(len(rows)):
        temperature = 1 - (0 if variant == "warm" else 0.9) * j / len(rows)

        def loss(vector, j=j, temperature=temperature):
            phi = split(vector, start)
            phi |= {SHARES + n[5:]: (phi[n] / temperature).softmax(0) for n in start if n.startswith("arch/")}
            x, y = (part[rows[j]] for part in case.task.support)
            return (case.algorithm.model.net(phi, x, NoStatistics()) - y).square().mean()

        slope = torch.func.grad(loss)(v)
        second = 0.999 * second + 0.001 * slope**2
        v = v - rates * slope / ((second / (1 - 0.999 ** (j + 1))).sqrt() + 1e-8)
    return join(start) - v


@pytest.mark.parametrize(("variant", "right"), [("both", True), ("fixed", False), ("warm", False)])
def test_metanas_is_reptile_on_the_stacked_vector(variant, right):
    case = made("metanas", inner_lr=0.1, arch_lr=0.2, inner_steps=4, inner_batch=3)
    delta, _ = case.algorithm.learn(case.theta, case.task, case.context)
    assert set(delta) == {"model", "arch"}
    found = join(delta["model"] | delta["arch"])
    assert (largest(found, stacked(case, variant)) < 1e-12) == right
    assert right or largest(found, stacked(case, variant)) > 1e-2


FROZEN = [("function_cells", ("relu", "sincos")), ("image_cells", ("conv3", "skip"))]
PAIRS = {
    "tnas": ("maml", {"inner_lr": 0.2, "inner_steps": 3, "first_order": False}),
    "metanas": ("reptile", {"inner_lr": 0.05, "inner_steps": 3, "inner_batch": 4}),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("space", "cell"), FROZEN)
def test_with_a_certain_architecture_it_is_the_method_on_that_cell(name, space, cell):
    plain, settings = PAIRS[name]
    search, alone = made(name, space, **settings), made(plain, space, cell, **settings)
    theta = {"model": search.theta["model"], "arch": certain(space, cell)}
    gradient, score = search.algorithm.learn(theta, search.task, search.context)
    own = {"model": {leaf: theta["model"][leaf] for leaf in alone.theta["model"]}}
    wanted, judged = alone.algorithm.learn(own, search.task, search.context)
    assert torch.equal(score.loss, judged.loss)
    # Behind batch norm the last digits of a gradient differ.
    close = {"rtol": 1e-10, "atol": 1e-12} if space == "image_cells" else {"rtol": 0.0, "atol": 0.0}
    for leaf, value in gradient["model"].items():
        torch.testing.assert_close(value, wanted["model"].get(leaf, torch.zeros_like(value)), **close)
    assert not any(leaf.any() for leaf in gradient["arch"].values())
    free, _ = search.algorithm.learn(search.theta, search.task, search.context)
    assert all(leaf.any() for leaf in free["arch"].values())


@pytest.mark.parametrize(("rows", "features"), [(7, 3), (3, 7), (4, 4)])
def test_a_ridge_head_is_the_least_squares_of_a_longer_system(rows, features):
    rng = np.random.default_rng(5)
    z, y = (torch.from_numpy(rng.normal(size=(rows, width))) for width in (features, 2))
    longer = torch.cat([z, 0.3**0.5 * torch.eye(features).double()])
    wanted = torch.linalg.lstsq(longer, torch.cat([y, torch.zeros(features, 2).double()])).solution
    assert largest(ridge(z, y, torch.tensor(0.3, dtype=torch.float64)), wanted) < 1e-13
    assert largest(ridge(z, y, torch.tensor(0.6, dtype=torch.float64)), wanted) > 1e-3


@pytest.mark.parametrize(("held", "right"), [(False, True), (True, False)])
def test_a_bilevel_search_descends_the_query_loss_through_the_best_head(held, right):
    """A head that is held while the architecture moves gives another gradient."""
    case = made("ridge", penalty=0.1)
    gradient, _ = case.algorithm.learn(case.theta, case.task, case.context)
    logits = case.theta["arch"]
    first = case.algorithm.adapt(case.theta, case.task.support, case.context)

    def query_loss(logits):
        adapted = case.algorithm.adapt(case.theta | {"arch": logits}, case.task.support, case.context)
        adapted = adapted._replace(weight=first.weight) if held else adapted
        return float((case.algorithm.predict(adapted, case.task.query.x) - case.task.query.y).square().mean())

    worst = 0.0
    for name, place in itertools.product(logits, range(4)):
        way = torch.eye(4).double()[place] * 1e-6
        up, down = (query_loss(logits | {name: logits[name] + sign * way}) for sign in (1, -1))
        worst = max(worst, abs(float(gradient["arch"][name][place]) - (up - down) / 2e-6))
    assert (worst < 1e-7) == right
    assert right or worst > 1e-2


def sinusoids(count):
    source = Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(1, 10, 50), TaskShape(1, 10, 50)))
    return [source.sample(Ticket(1, "evaluate", "test", 0, number)) for number in range(count)]


def test_the_best_cells_for_sine_waves_are_known_by_enumeration():
    found = {}
    for cell in itertools.combinations_with_replacement(NETS["function_cells"].ops, 2):
        algorithm, theta, _, context = made("ridge", cell=cell, penalty=1e-3)
        scores = [algorithm.objective(theta, task, context).loss for task in sinusoids(100)]
        found["+".join(sorted(cell))] = float(torch.stack(scores).mean())
    ranked = sorted(found, key=found.get)
    assert len(ranked) == 10
    assert set(ranked[:2]) == {"sincos+sincos", "sincos+zero"}
    assert max(found[cell] for cell in ranked[:2]) < 1e-3
    assert ranked[2] == "relu+sincos"
    assert 0.7 < found["relu+sincos"] < 2.5


@pytest.mark.parametrize("name", ["tnas", "hypernas"])
def test_evaluation_tells_the_mixture_the_discrete_network_and_the_cells_that_were_chosen(name):
    case = made(name, "image_cells", phase="evaluate", inner_lr=0.2)
    algorithm, theta, task, context = case
    cell = ("sep_conv5", "skip")
    arch = certain("image_cells", cell) if name == "tnas" else theta["arch"]
    adapted = algorithm.adapt(theta | {"arch": arch}, task.support, context)
    metrics = algorithm.score(adapted, task.query, context).metrics
    assert set(metrics) == {
        *("accuracy", "accuracy_discrete"),
        *(f"edge{edge}/{op}" for edge in range(2) for op in NETS["image_cells"].ops),
    }
    chosen = algorithm.cell(adapted)
    assert [float(metrics[f"edge{edge}/{op}"]) for edge, op in enumerate(chosen)] == [1, 1]
    assert sum(float(value) for key, value in metrics.items() if key.startswith("edge")) == 2
    if name == "tnas":
        assert chosen == cell
        assert torch.equal(metrics["accuracy"], metrics["accuracy_discrete"])


def test_a_served_task_names_its_cell():
    case = made("ridge")
    learner = Learner(case.algorithm, case.theta | {"arch": certain("function_cells", ("sincos", "zero"))}, spec())
    assert learner.adapt([[0.1], [1.0]], [[0.0], [1.0]]).cell == ("sincos", "zero")
    plain = made("maml", cell=("relu", "skip"))
    with pytest.raises(ConfigError, match="MAML searches no architecture; tnas does"):
        _ = Learner(plain.algorithm, plain.theta, spec()).adapt([[0.1]], [[0.0]]).cell


def spec():
    return Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(), TaskShape())).spec()


@pytest.mark.parametrize(
    ("name", "cell", "told"),
    [
        ("maml", None, "net.cell: null leaves the cell open, and this algorithm searches none; name 2 of skip, relu"),
        ("tnas", ("skip", "relu"), "net.cell: TNAS searches a cell; take function_cells or image_cells and set"),
    ],
)
def test_a_cell_that_does_not_fit_the_algorithm_is_refused(name, cell, told):
    with pytest.raises(ConfigError) as caught:
        made(name, cell=cell)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
