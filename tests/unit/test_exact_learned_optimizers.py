"""The learned optimisers are SGD where they should be, and learn what their segments say.

Meta-LSTM: Ravi, Larochelle 2017, OpenReview rJY0-Kcll, §3. The coordinate-wise LSTM: Andrychowicz et al. 2016,
arXiv 1606.04474, §2 and appendix A.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from pipeline.algorithms.learnedoptimizer import LearnedOptimizer
from pipeline.algorithms.metalstm import MetaLSTM
from pipeline.core.flat import join, split
from pipeline.core.inner import SGD, unroll
from pipeline.core.losses import mean_squared_error
from pipeline.core.types import Batch, Context, MetaParams, Params, Task
from pipeline.families.learned_optimizer import State, log_and_sign
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet

pytestmark = pytest.mark.usefixtures("torch_threads")

RATE, STEPS = 0.1, 7
MODEL = NormalisedNet(MLP(MLP.Config(hidden=(5,), activation="tanh"), (2,), 1, normalised=False), "none", (2,))
PHASES: tuple[Any, ...] = ("train", "evaluate")


def batch(seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(torch.from_numpy(rng.normal(size=(6, 2))), torch.from_numpy(rng.normal(size=(6, 1))))


TASK = Task("task", batch(1), batch(2))


def double(tree: Params) -> Params:
    return {name: leaf.double() for name, leaf in tree.items()}


START = double(MODEL.init(np.random.default_rng(3)))


def context(noise: Params | None = None, phase: Any = "train") -> Context:
    return Context(1, phase, 1, noise or {})


def metalstm(**config: Any) -> MetaLSTM:
    given = {"inner_steps": STEPS, "eval_inner_steps": STEPS, "cell_size": 3} | config
    return MetaLSTM(MetaLSTM.Config(**given), MODEL, mean_squared_error)


def coordinatewise(**config: Any) -> LearnedOptimizer:
    given = {"inner_steps": STEPS, "eval_inner_steps": STEPS, "cell_size": 3} | config
    return LearnedOptimizer(LearnedOptimizer.Config(**given), MODEL, mean_squared_error)


def assert_descends(path: Any, rtol: float) -> None:
    """Whether a path is SGD's, from the same start."""

    def fit(phi: Params, j: int) -> Tensor:
        return (MODEL.forward_own_statistics(phi, TASK.support.x)[0] - TASK.support.y).square().mean()

    expected = unroll(fit, START, STEPS, SGD(RATE), first_order=True)
    for found, wanted in zip(path, expected, strict=True):
        assert_close(join(found), join(wanted), rtol=rtol, atol=0)
    assert not torch.allclose(join(expected[-1]), join(START), rtol=0.05)


@pytest.mark.parametrize("phase", PHASES)
def test_a_meta_lstm_with_constant_gates_is_sgd(phase):
    algorithm = metalstm()
    optimizer = {name: leaf * 0 for name, leaf in algorithm.init(np.random.default_rng(0))["optimizer"].items()}
    optimizer["forget/bias"] = torch.tensor(math.inf, dtype=torch.float64)
    optimizer["input/bias"] = torch.tensor(math.log(RATE / (1 - RATE)), dtype=torch.float64)
    theta = {"model": START, "optimizer": optimizer}
    assert_descends(algorithm.inner_trajectory(theta, TASK.support, context(phase=phase)), 1e-13)


def test_a_coordinate_wise_lstm_of_open_gates_and_small_weights_is_sgd():
    """Of one unit in each layer, with i = o = 1 and f = 0, the output is four times tanh of the gradient, scaled."""
    algorithm, small = coordinatewise(cell_size=1, preprocess="none"), 1e-5
    optimizer = {name: leaf * 0 for name, leaf in algorithm.init(np.random.default_rng(0))["optimizer"].items()}
    for layer in ("lower", "upper"):
        optimizer[f"{layer}/bias"] = torch.tensor([math.inf, -math.inf, 0.0, math.inf], dtype=torch.float64)
    optimizer["lower/input"] = torch.tensor([[0.0], [0.0], [small], [0.0]], dtype=torch.float64)
    optimizer["upper/input"] = torch.tensor([[0.0], [0.0], [1.0], [0.0]], dtype=torch.float64)
    optimizer["output/weight"] = torch.tensor([-RATE / small / algorithm.config.output_scale], dtype=torch.float64)
    assert_descends(algorithm.inner_trajectory({"optimizer": optimizer}, TASK.support, context(START)), 1e-8)


class Identity(LearnedOptimizer):
    """Its output is the gradient times -alpha: there is nothing but the trajectory to be wrong."""

    def step(self, optimizer: Params, state: State) -> State:
        return state | {"phi": state["phi"] - RATE * state["gradient"]}


def test_an_identity_of_the_gradient_is_sgd():
    algorithm = Identity(coordinatewise().config, MODEL, mean_squared_error)
    assert_descends(algorithm.inner_trajectory({"optimizer": {}}, TASK.support, context(START)), 1e-13)


def test_the_first_steps_are_those_of_gradient_descent_or_near_none():
    """As both papers start: the gates near f = 1 and i = 0.01, the coordinate-wise output near 0."""
    theta = metalstm().init(np.random.default_rng(0))
    first, second = list(metalstm().inner_trajectory(theta | {"model": START}, TASK.support, context()))[:2]
    step = join(second) - join(first)
    assert step.norm() < 0.05 * join(first).norm()
    for algorithm in (coordinatewise(preprocess="none", cell_size=20), coordinatewise(cell_size=20)):
        theta = algorithm.init(np.random.default_rng(0))
        path = list(algorithm.inner_trajectory(theta, TASK.support, context(START)))
        assert (join(path[1]) - join(path[0])).abs().max() < 0.02


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_preprocessing_is_that_of_appendix_a(p):
    x = torch.tensor([3.0, -0.5, math.exp(-p), -0.3 * math.exp(-p), 0.0], dtype=torch.float64)
    found = log_and_sign(x, p)
    expected = [(math.log(3) / p, 1.0), (math.log(0.5) / p, -1.0), (-1.0, 1.0), (-1.0, -0.3), (-1.0, 0.0)]
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def theirs(optimizer: Params, name: str, inputs: int) -> nn.LSTMCell:
    """torch's cell with our weights, for a batch of coordinates."""
    cell = nn.LSTMCell(inputs, 3, dtype=torch.float64)
    ours = [optimizer[f"{name}/{leaf}"] for leaf in ("input", "recurrent", "bias")]
    leaves = dict(zip(("weight_ih", "weight_hh", "bias_ih"), ours, strict=True))
    cell.load_state_dict(leaves | {"bias_hh": torch.zeros(12, dtype=torch.float64)})
    return cell.requires_grad_(False)


def stirred(algorithm: Any) -> Params:
    """An optimiser far from its start: all of its parts matter."""
    rng = np.random.default_rng(5)
    drawn = algorithm.init(rng)["optimizer"]
    return {
        name: leaf + torch.from_numpy(np.asarray(rng.normal(0, 0.3, tuple(leaf.shape)))) for name, leaf in drawn.items()
    }


def test_a_meta_lstm_steps_as_the_paper_writes():
    """Each coordinate alone: f phi - i g, with gates that see h, phi and their own last value, after σ."""
    algorithm = metalstm()
    optimizer = stirred(algorithm)
    states = recorded(algorithm, {"model": START, "optimizer": optimizer}, {})
    cell = theirs(optimizer, "lstm", 4)
    for coordinate in (0, 9):
        hidden, last = None, {"forget": 0.0, "input": 0.0}
        for before, after in itertools.pairwise(states):
            phi, loss, gradient = before["phi"][coordinate], before["loss"], before["gradient"][coordinate]
            seen = torch.cat([log_and_sign(loss, 10.0), log_and_sign(gradient, 10.0)])
            hidden = cell(seen.unsqueeze(0), hidden)
            for gate, value in last.items():
                sees = torch.stack([*hidden[0][0], phi, torch.as_tensor(value, dtype=torch.float64)])
                last[gate] = 1 / (
                    1 + math.exp(-(optimizer[f"{gate}/weight"] @ sees + optimizer[f"{gate}/bias"]).item())
                )
            moved = last["forget"] * phi - last["input"] * gradient
            assert_close(after["phi"][coordinate], moved, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("preprocess", ["log_and_sign", "none"])
def test_a_coordinate_wise_lstm_steps_as_the_paper_writes(preprocess):
    algorithm = coordinatewise(preprocess=preprocess)
    optimizer = stirred(algorithm)
    lower = theirs(optimizer, "lower", 2 if preprocess == "log_and_sign" else 1)
    upper, first, second = theirs(optimizer, "upper", 3), None, None
    for before, after in itertools.pairwise(recorded(algorithm, {"optimizer": optimizer}, START)):
        gradient = before["gradient"].unsqueeze(1)
        first = lower(log_and_sign(gradient[:, 0], 10.0) if preprocess == "log_and_sign" else gradient, first)
        second = upper(first[0], second)
        moved = before["phi"] + 0.1 * second[0] @ optimizer["output/weight"]
        assert_close(after["phi"], moved, rtol=1e-12, atol=1e-14)


def recorded(algorithm: Any, theta: MetaParams, noise: Params) -> list[State]:
    """The states of a whole trajectory, with what the optimiser saw at each."""
    like = algorithm.start(theta, context(noise))
    observe = algorithm.observer(TASK.support, like, context(noise))
    states = [algorithm.begin(theta, observe, context(noise))]
    for _ in range(STEPS):
        states.append(algorithm.advance(theta, states[-1], observe))
    return states


def segments_by_hand(
    algorithm: Any, base: MetaParams, noise: Params, every: int, segment_loss: Callable[[list[Tensor]], Any]
):
    """Σ of the segments' losses as a function of theta: each starts in ``base``'s state, and sees what ``base`` saw."""
    states = recorded(algorithm, base, noise)

    def total(theta: MetaParams) -> float:
        found = 0.0
        for first in range(0, STEPS, every):
            state, visited = states[first], []
            if first == 0:
                state = state | {"phi": join(algorithm.start(theta, context(noise)))}
            for number in range(first, min(first + every, STEPS)):
                saw = {name: states[number][name] for name in ("loss", "gradient")}
                state = algorithm.step(theta["optimizer"], state | saw)
                visited.append(state["phi"])
            found += segment_loss(visited).item()
        return found

    return total


def mse(phi: Tensor, on: Batch) -> Tensor:
    return (MODEL.forward_own_statistics(split(phi, START), on.x)[0] - on.y).square().mean()


CASES = [
    (metalstm, lambda visited: mse(visited[-1], TASK.query), {}),
    (coordinatewise, lambda visited: torch.stack([mse(phi, TASK.support) for phi in visited]).sum(), START),
]


@pytest.mark.parametrize("every", [3, 20], ids=["cut", "whole"])
@pytest.mark.parametrize(("build", "segment_loss", "noise"), CASES, ids=["metalstm", "learnedoptimizer"])
def test_the_gradient_is_the_sum_of_the_segments_finite_differences(build, segment_loss, noise, every):
    algorithm = build(detach_every=every)
    theta = {"optimizer": stirred(algorithm)} | ({} if noise else {"model": START})
    rng = np.random.default_rng(6)
    total = segments_by_hand(algorithm, theta, noise, every, segment_loss)
    gradient, score = algorithm.learn(theta, TASK, context(noise))
    assert score.loss.item() == pytest.approx(total(theta), rel=1e-12)
    assert set(gradient) == set(theta)
    for group, leaves in gradient.items():
        scale = math.sqrt(sum(leaf.square().sum().item() for leaf in leaves.values()))
        for name, slope in leaves.items():
            way = torch.from_numpy(np.asarray(rng.normal(size=tuple(slope.shape))))
            up, down = (
                total(theta | {group: theta[group] | {name: theta[group][name] + sign * 1e-6 * way}})
                for sign in (1, -1)
            )
            assert (slope * way).sum().item() == pytest.approx((up - down) / 2e-6, abs=1e-7 * scale + 1e-9)


def test_a_cut_changes_the_gradient_and_not_the_way():
    start = coordinatewise().init(np.random.default_rng(0))
    cut, whole = (coordinatewise(detach_every=every).learn(start, TASK, context(START)) for every in (3, 20))
    assert cut[1].loss.item() == pytest.approx(whole[1].loss.item(), rel=1e-12)
    assert not torch.allclose(cut[0]["optimizer"]["output/weight"], whole[0]["optimizer"]["output/weight"], rtol=1e-3)
