"""Games: each group descends its own loss, held against closed forms; a wrong variant is caught by the same checks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pipeline.core.algorithm import Differentiable, Game
from pipeline.core.failures import ConfigError, TaskError
from pipeline.core.flat import Layout
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec
from pipeline.core.types import About, Batch, Context, Needs, Score, Task
from pipeline.engine.dry_run import check_algorithm
from pipeline.engine.interfaces import Chunk
from pipeline.engine.numerics import Numerics
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from pipeline.engine.worker import Worker

pytestmark = pytest.mark.usefixtures("torch_threads")

SIZE, TASKS, RATE = 3, 3, 0.1
BOTH = ("critic", "generator")


class Matrices:
    """A task is four matrices A, B, C and D, as the four inputs of its support set; tasks have weights of their own."""

    Config: ClassVar[Any] = None
    splits = ("train", "val", "test")
    fingerprint = "matrices"

    def spec(self):
        return Spec(Batch, (SIZE, SIZE), 1, "values", "mean_squared_error")

    def sample(self, ticket):
        matrices = torch.from_numpy(ticket.rng("task").normal(size=(4, SIZE, SIZE)))
        examples = Batch(matrices, torch.zeros(4, 1, dtype=torch.float64))
        return Task(ticket.id, examples, examples, weight=1.0 + ticket.number)


class Bilinear(Matrices):
    """Generator and critic are one number each and the loss is g · c for one of them, -g · c for the other."""

    def sample(self, ticket):
        zero, one = torch.zeros(SIZE, SIZE, dtype=torch.float64), torch.eye(SIZE, dtype=torch.float64)
        examples = Batch(torch.stack([zero, one, zero, -one]), torch.zeros(4, 1, dtype=torch.float64))
        return Task(ticket.id, examples, examples)


class Players:
    """½ gᵀA g + gᵀB c is the generator's loss, ½ cᵀC c + cᵀD g the critic's."""

    Config: ClassVar[Any] = type(None)
    needs = Needs((Batch,), ("values",), True)
    about = About("optimisation", "of this test")
    state_groups = frozenset({"steps"})

    def init(self, rng):
        return {
            "generator": {"g": torch.from_numpy(rng.normal(size=SIZE))},
            "critic": {"c": torch.from_numpy(rng.normal(size=SIZE))},
            "steps": {"count": torch.zeros((), dtype=torch.float64)},
        }

    def adapt(self, theta, support, context):
        return support.x, theta["generator"]["g"], theta["critic"]["c"]

    def predict(self, adapted, x):
        return x.flatten(1).sum(1, keepdim=True)

    def score(self, adapted, query, context):
        (a, b, c, d), generator, critic = adapted
        return Score(generator @ (a @ generator / 2 + b @ critic), {})

    def both(self, theta, task):
        (a, b, c, d), g, y = self.adapt(theta, task.support, None)
        return {"generator": g @ (a @ g / 2 + b @ y), "critic": y @ (c @ y / 2 + d @ g)}

    def fold(self, theta, records):
        return {"steps": {"count": theta["steps"]["count"] + 1}}


class Simultaneous(Players, Game):
    """Both are stepped at each outer step."""

    def losses(self, theta, task, context):
        losses = self.both(theta, task)
        return losses, Score(losses["generator"], {"asked": torch.ones(())})


class Alternating(Players, Game):
    """The generator is stepped at odd steps, the critic at even ones."""

    def losses(self, theta, task, context):
        losses = self.both(theta, task)
        stepped = "generator" if context.step % 2 else "critic"
        return {stepped: losses[stepped]}, Score(losses[stepped], {})


class Together(Players, Game):
    """Both descend the sum, which is one tensor."""

    def losses(self, theta, task, context):
        whole = sum(self.both(theta, task).values())
        return dict.fromkeys(BOTH, whole), Score(whole, {})


class OfTheSum(Players, Differentiable):
    """The wrong variant: all groups descend the sum of the losses."""

    def objective(self, theta, task, context):
        return Score(sum(self.both(theta, task).values()), {})


def built(kind):
    return kind(None, None, None)


def start():
    return Players().init(np.random.default_rng(0))


def worker(kind, source=None, *, vectorise=True):
    numerics = Numerics(dtype="float64", device="cpu", threads=1, vectorise=vectorise)
    return Worker(built(kind), source or Matrices(), Layout.of(start(), torch.float64), numerics, 4)


def tickets(step=1):
    return tuple(Ticket(5, "train", "train", step, number) for number in range(TASKS))


def closed_form(step=1):
    """The weighted sums of the players' own gradients over a step's tasks."""
    g, y = start()["generator"]["g"], start()["critic"]["c"]
    total = {"generator": torch.zeros_like(g), "critic": torch.zeros_like(y)}
    for ticket in tickets(step):
        task = Matrices().sample(ticket)
        a, b, c, d = task.support.x
        total["generator"] += task.weight * ((a + a.T) @ g / 2 + b @ y)
        total["critic"] += task.weight * ((c + c.T) @ y / 2 + d @ g)
    return total


def learned(kind, step=1, *, vectorise=True):
    """A worker's contribution and report for the tasks of a step, and the gradient by group."""
    of = worker(kind, vectorise=vectorise)
    contribution, report = of.learn(of.layout.pack(start()).numpy(), Chunk(step, 0, tickets(step)))
    gradient = of.layout.unpack(torch.from_numpy(contribution.gradient))
    return contribution, report, {"generator": gradient["generator"]["g"], "critic": gradient["critic"]["c"]}


@pytest.mark.parametrize("vectorise", [True, False], ids=["vectorised", "one by one"])
def test_each_group_gets_the_gradient_of_its_own_loss_alone(vectorise):
    contribution, _, gradient = learned(Simultaneous, vectorise=vectorise)
    assert sorted(contribution.groups) == sorted(BOTH)
    for group, expected in closed_form().items():
        assert_close(gradient[group], expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_the_sum_would_not_pass_this():
    *_, gradient = learned(OfTheSum)
    for group, expected in closed_form().items():
        assert (gradient[group] - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("vectorise", [True, False], ids=["vectorised", "one by one"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_group_that_is_left_out_of_a_step_gets_nothing(step, vectorise):
    contribution, _, gradient = learned(Alternating, step, vectorise=vectorise)
    stepped, still = ("generator", "critic") if step == 1 else ("critic", "generator")
    assert contribution.groups == (stepped,)
    assert_close(gradient[stepped], closed_form(step)[stepped], rtol=1e-12, atol=1e-12)
    assert not gradient[still].any()


def test_groups_that_share_a_loss_share_its_backward_pass(monkeypatch):
    passes = []

    def counting(*given, vjp=torch.func.vjp, **options):
        losses, pull, score = vjp(*given, **options)
        return losses, lambda wanted: passes.append(1) or pull(wanted), score

    monkeypatch.setattr(torch.func, "vjp", counting)
    _, report, gradient = learned(Together, vectorise=False)
    *_, expected = learned(OfTheSum)
    for group in BOTH:
        assert_close(gradient[group], expected[group], rtol=1e-12, atol=1e-12)
    assert len(passes) == TASKS
    assert {"loss/generator", "loss/critic"} <= set(report.metrics)
    learned(Simultaneous, vectorise=False)
    assert len(passes) == 3 * TASKS


def test_each_loss_is_reported_beside_the_score():
    _, report, _ = learned(Simultaneous)
    expected = dict.fromkeys(BOTH, 0.0)
    for ticket in tickets():
        for group, loss in Players().both(start(), Matrices().sample(ticket)).items():
            expected[group] += loss.item()
    assert report.metrics == pytest.approx(
        {"asked": TASKS, "loss/generator": expected["generator"], "loss/critic": expected["critic"]}
    )
    assert report.loss == pytest.approx(expected["generator"])


def test_learn_returns_no_graph():
    gradient, score = built(Simultaneous).learn(start(), Matrices().sample(tickets()[0]), Context(1, "train", 1, {}))
    tensors = [score.loss, *score.metrics.values(), *(leaf for part in gradient.values() for leaf in part.values())]
    assert not any(tensor.requires_grad for tensor in tensors)


def played(kind, steps):
    """(g, c) after each outer step of the bilinear game, with plain gradient descent for both."""
    of = worker(kind, Bilinear())
    outer = {group: Outer("sgd", RATE) for group in BOTH}
    store = Store(of.algorithm, of.layout, of.layout.pack(start()), outer, steps)
    seen = []
    for step in range(1, steps + 1):
        contribution, _ = of.learn(store.vector(), Chunk(step, 0, tickets(step)))
        store.step(step, [contribution])
        theta = of.layout.unpack(torch.from_numpy(store.vector()))
        seen.append((theta["generator"]["g"], theta["critic"]["c"]))
    assert theta["steps"]["count"].item() == steps, "state groups are folded at each step"
    return seen


def test_simultaneous_descent_turns_outwards_by_the_closed_form():
    """(g, c) <- (g - rate c, c + rate g): a turn by atan(rate), √(1 + rate²) times as long."""
    g, c = played(Simultaneous, 20)[-1]
    angle, growth = 20 * math.atan(RATE), (1 + RATE**2) ** 10
    first, second = start()["generator"]["g"], start()["critic"]["c"]
    assert_close(g, growth * (math.cos(angle) * first - math.sin(angle) * second), rtol=1e-12, atol=1e-12)
    assert_close(c, growth * (math.sin(angle) * first + math.cos(angle) * second), rtol=1e-12, atol=1e-12)


def test_alternating_descent_stays_on_its_ellipse():
    """After each pair of steps |g|² + |c|² - rate g·c is what it was: the second player sees the first one's move."""
    seen = played(Alternating, 40)

    def height(g, c):
        return (g @ g + c @ c - RATE * g @ c).item()

    assert height(*seen[0]) != pytest.approx(height(start()["generator"]["g"], start()["critic"]["c"]), rel=1e-6)
    pairs = [(start()["generator"]["g"], start()["critic"]["c"]), *seen[1::2]]
    assert [height(*one) for one in pairs] == pytest.approx([height(*pairs[0])] * 21, rel=1e-12)
    odd, even = seen[0], seen[1]
    assert torch.equal(odd[1], start()["critic"]["c"])
    assert torch.equal(even[0], odd[0])


def test_the_dry_run_takes_a_game():
    check_algorithm(built(Simultaneous), Matrices(), start(), seed=0)
    check_algorithm(built(Alternating), Matrices(), start(), seed=0)


class OfAStateGroup(Simultaneous):
    def losses(self, theta, task, context):
        losses, score = super().losses(theta, task, context)
        return {**losses, "steps": losses["critic"]}, score


class OfNobody(Simultaneous):
    def losses(self, theta, task, context):
        losses, score = super().losses(theta, task, context)
        return {**losses, "referee": losses["critic"]}, score


class NotANumber(Simultaneous):
    def losses(self, theta, task, context):
        losses, score = super().losses(theta, task, context)
        return {**losses, "critic": theta["critic"]["c"]}, score


class Unconcerned(Simultaneous):
    def losses(self, theta, task, context):
        losses, score = super().losses(theta, task, context)
        return {**losses, "critic": losses["critic"].detach() + losses["generator"] * 0}, score


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OfAStateGroup, r"OfAStateGroup: losses has the group steps, which no optimizer steps; .* critic, generator"),
        (OfNobody, r"OfNobody: losses has the group referee, which no optimizer steps; .* critic, generator"),
        (NotANumber, r"NotANumber: the loss of critic has the shape \(3,\), expected one number; take the mean"),
        (Unconcerned, "algorithm Unconcerned: no gradient reaches critic/c"),
    ],
)
def test_a_mistake_in_a_game_is_one_line(kind, message):
    with pytest.raises((ConfigError, TaskError), match=message) as caught:
        check_algorithm(built(kind), Matrices(), start(), seed=0)
    assert "\n" not in str(caught.value)
