"""The contract of an algorithm as functions of a case. Each raises ``AssertionError`` and says what is broken.

They are functions, so that they can be held against algorithms that break the contract.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.core.agent import Agent
from pipeline.core.algorithm import Algorithm
from pipeline.core.seeding import init_rng
from pipeline.core.types import MetaParams, Pairs, Params, Phase
from pipeline.testing.agents import check_an_agent_acts_alone_as_in_episodes
from pipeline.testing.case import SEED, TASKS, Case, chunk_of, vector_of
from pipeline.testing.compare import CLOSE, assert_close, assert_same_bits, global_states, norm, seed_globals, tensors
from pipeline.testing.workers import by_worker, with_loss, worker_of

STEPS = 8
"""Outer steps in one of which every leaf must get a gradient."""
DEAD = 1e-8
"""A leaf whose gradient is a smaller share of its group's has none."""
SMALL = 1e-6
"""A group whose gradient is a smaller share of the whole is judged as one of that share: what is left of it in float64
is the rounding of larger numbers."""
PHASES: tuple[Phase, ...] = ("train", "evaluate", "serve")


def check_init_depends_on_the_generator_alone(case: Case) -> None:
    thetas = []
    for seed in (1, 2):
        seed_globals(seed)
        thetas.append(case.algorithm.init(init_rng(SEED)))
    assert_same_bits(thetas[0], thetas[1], "init with the same generator")
    other = case.algorithm.init(init_rng(SEED + 1))
    if case.layout().size == 1:
        return  # a single number may start where it always does: there is no symmetry to break
    assert any(not torch.equal(a, b) for a, b in zip(tensors(thetas[0]), tensors(other), strict=True)), (
        "init gives the same theta for every generator"
    )


def check_every_leaf_gets_gradient(case: Case) -> None:
    """In some step of ``STEPS``: a group may be left out of a step by schedule."""
    theta = case.theta()
    wanted = {group: set(leaves) for group, leaves in theta.items() if group not in case.algorithm.unstepped}
    sums: MetaParams = {}
    for step, number in itertools.product(range(1, STEPS + 1), range(TASKS)):
        task, context = case.drawn(number)
        gradient, _ = case.algorithm.learn(theta, task, context._replace(step=step))
        for group, leaves in gradient.items():
            into = sums.setdefault(group, {})
            for name, leaf in leaves.items():
                into[name] = into.get(name, torch.zeros_like(leaf)) + leaf.abs()
        if number == TASKS - 1 and not any(_dead(sums.get(group, {}), names) for group, names in wanted.items()):
            return
    for group, names in wanted.items():
        assert set(sums.get(group, {})) == names, f"learn gave no gradient for all leaves of the group {group}"
        dead = _dead(sums[group], names)
        assert not dead, f"dead leaf: no gradient reaches {', '.join(f'{group}/{name}' for name in dead)}"


def _dead(sums: Params, names: set[str]) -> list[str]:
    """The leaves without a gradient, or with one that is rounding beside the group's."""
    whole = norm(sums)
    return [name for name in sorted(names) if name not in sums or sums[name].norm().item() <= DEAD * whole]


def check_inputs_are_not_changed(case: Case) -> None:
    """Values are compared, and the counters with which torch counts writes: those that are undone count too."""
    for phase in PHASES:
        theta, (task, context) = case.theta(), case.drawn(0, phase)
        inputs = {"theta": theta, "the support set": task.support, "the query set": task.query, "noise": context.noise}
        before = {name: [tensor.clone() for tensor in tensors(value)] for name, value in inputs.items()}
        written = {name: [tensor._version for tensor in tensors(value)] for name, value in inputs.items()}
        if phase == "train":
            case.algorithm.learn(theta, task, context)
        for adapted in case.algorithm.trace(theta, task.support, context):
            case.algorithm.score(adapted, task.query, context)
        for name, value in inputs.items():
            now = tensors(value)
            same = all(torch.equal(a, b) for a, b in zip(before[name], now, strict=True))
            untouched = written[name] == [tensor._version for tensor in now]
            assert same, f"{name} was written in place"
            assert untouched, f"{name} was written in place, and restored"


def check_randomness_comes_from_the_ticket(case: Case) -> None:
    """The same answer twice, under other global seeds, and no global generator moves."""
    answers = []
    for seed in (1, 2):
        seed_globals(seed)
        before = global_states()
        theta, (task, context) = case.theta(), case.drawn(0)
        learned = case.algorithm.learn(theta, task, context)
        scored = case.algorithm.score(case.algorithm.adapt(theta, task.support, context), task.query, context)
        assert global_states() == before, "randomness outside the ticket: a global generator was used"
        answers.append((context.noise, learned, scored))
    assert_same_bits(answers[0], answers[1], "the same task, learnt twice,")


def check_trace_ends_in_adapt(case: Case) -> None:
    for phase in PHASES:
        theta, (task, context) = case.theta(), case.drawn(1, phase)
        trace = tuple(case.algorithm.trace(theta, task.support, context))
        assert_same_bits(
            trace[-1], case.algorithm.adapt(theta, task.support, context), f"in {phase}, trace()[-1] and adapt"
        )


def check_vectorised_learn_equals_the_loop(case: Case) -> None:
    what = "objective" if case.algorithm.differentiable else "learn"
    (gradient, report), (looped, loop_report) = (
        by_worker(case, what, vectorise, lambda worker: worker.learn(vector_of(case), chunk_of(case)))
        for vectorise in (True, False)
    )
    assert (gradient.groups, gradient.weight) == (looped.groups, looped.weight)
    layout = case.layout()
    together, alone = (layout.unpack(torch.from_numpy(one.gradient)) for one in (gradient, looped))
    least = SMALL * float(np.linalg.norm(looped.gradient))
    for group, leaves in alone.items():
        for name, leaf in leaves.items():
            assert_close(together[group][name], leaf, f"gradient of {group}/{name}", scale=max(norm(leaves), least))
    for a, b in zip(gradient.records, looped.records, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert_close(torch.from_numpy(a[name]), torch.from_numpy(b[name]), f"record {name}")
    assert (report.used, report.skipped) == (loop_report.used, loop_report.skipped) == (TASKS, ())
    assert math.isclose(report.loss, loop_report.loss, rel_tol=CLOSE), "vectorised loss differs from the loop's"
    assert report.metrics.keys() == loop_report.metrics.keys()


def check_vectorised_score_equals_the_loop(case: Case) -> None:
    chunk, told = chunk_of(case, evaluate=True), with_loss(case)
    together, alone = (
        by_worker(told, "trace", vectorise, lambda worker: worker.score(vector_of(case), chunk))
        for vectorise in (True, False)
    )
    assert together.points == alone.points
    assert together.metrics.keys() == alone.metrics.keys()
    for name, values in alone.metrics.items():
        assert values.shape == (TASKS, len(alone.points)), f"{name}: expected a row per task and a column per point"
        assert_close(torch.from_numpy(together.metrics[name]), torch.from_numpy(values), name)


def check_finite_differences(case: Case) -> None:
    """Along one random direction for each leaf; only for algorithms whose ``learn`` claims to be a derivative.

    A ReLU that changes sides within a difference makes an inner step, and so the loss, jump: a smaller one misses it.
    So does a step of Adam where an inner gradient is near 0.
    """
    algorithm = case.algorithm
    assert algorithm.differentiable, f"{type(algorithm).__name__} claims no derivative"
    theta, (task, context) = case.theta(), case.drawn(2)
    gradient, _ = algorithm.learn(theta, task, context)

    def loss(group: str, name: str, moved: Tensor) -> float:
        leaves = theta[group] | {name: moved}
        return algorithm.objective(theta | {group: leaves}, task, context).loss.item()

    rng = torch.Generator().manual_seed(SEED)
    for group, leaves in gradient.items():
        for name, slope in leaves.items():
            leaf = theta[group][name]
            way = torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype)
            way /= way.norm()
            claimed, scale = (slope * way).sum().item(), max(slope.norm().item(), 1e-3 * norm(leaves))
            for step in (1e-6, 1e-7, 1e-8, 1e-5, 1e-4):
                measured = (loss(group, name, leaf + step * way) - loss(group, name, leaf - step * way)) / (2 * step)
                if abs(measured - claimed) <= 1e-5 * scale + 1e-9:
                    break
            else:
                told = f"{claimed:.9g}, finite differences {measured:.9g}"
                raise AssertionError(f"gradient of {group}/{name} is not the derivative: {told}")


def check_rows_of_a_query_set_do_not_see_each_other(case: Case) -> None:
    """Permuted rows give permuted answers, and a row left out changes no other, except where statistics are theirs."""
    algorithm, theta, (task, context) = case.algorithm, case.theta(), case.drawn(0, "evaluate")
    x = task.query.x
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(x)))
    moved = []
    for adapted in algorithm.trace(theta, task.support, context):
        whole = algorithm.predict(adapted, x)
        assert_close(algorithm.predict(adapted, x[order]), whole[order], "predictions of permuted rows")
        fewer = algorithm.predict(adapted, x[:-1])
        if case.mode == "transductive":
            moved.append((fewer - whole[:-1]).abs().max().item())
        else:
            assert_close(fewer, whole[:-1], "predictions without the last row")
    # Before adaptation a head may be zero, and say the same of everything.
    assert max(moved, default=1.0) > 1e-6, "transductive predictions should depend on the other rows, and do not"


def check_predictions_fit_the_task(case: Case) -> None:
    for phase in PHASES:
        theta, (task, context) = case.theta(), case.drawn(0, phase)
        answers = case.algorithm.predict(case.algorithm.adapt(theta, task.support, context), task.query.x)
        assert answers.shape[0] == len(task.query.x), "predict gives another number of rows than it was given"
        if isinstance(task.query, Pairs):
            assert answers.dtype == torch.int64, f"predict gives {answers.dtype}, expected tokens"
            continue
        wide = task.ways if task.query.y.dim() == 1 else task.query.y.shape[1]
        assert answers.shape[1] >= wide, f"predict gives {answers.shape[1]} outputs, the task needs {wide}"
        assert answers.dtype == torch.float64, f"predict gives {answers.dtype} for float64"


def check_state_groups_are_folded_only(case: Case) -> None:
    algorithm, theta = case.algorithm, case.theta()
    assert algorithm.state_groups <= set(theta), "state_groups names a group that theta does not have"
    records: list[Params] = []
    for number in range(TASKS):
        gradient, score = algorithm.learn(theta, *case.drawn(number))
        assert not set(gradient) & algorithm.unstepped, "learn gives a gradient for a state group"
        assert set(gradient) <= set(theta), "learn gives a gradient for a group that theta does not have"
        assert not any(value.requires_grad for value in tensors(score)), "the score of learn still carries a graph"
        records += [score.records] if score.records else []
    for given in ([], records):
        before = pytree.tree_map(torch.clone, theta)
        after = algorithm.fold(theta, given)
        assert_same_bits(theta, before, "theta before and after fold")
        assert set(after) <= algorithm.state_groups, "fold changes a group that is not a state group"
        for group, leaves in after.items():
            assert {name: leaf.shape for name, leaf in leaves.items()} == {
                n: leaf.shape for n, leaf in theta[group].items()
            }
            if not given:
                assert_same_bits(leaves, theta[group], "fold without records: state before and after")


def check_messages_can_travel(case: Case) -> None:
    worker, theta = worker_of(case, vectorise=True), vector_of(case)
    messages: dict[str, Any] = {
        "task and context": case.drawn(0),
        "chunk": chunk_of(case),
        "contribution and report": worker.learn(theta, chunk_of(case)),
        "score report": worker.score(theta, chunk_of(case, evaluate=True)),
        "learn": case.algorithm.learn(case.theta(), *case.drawn(0)),
    }
    for name, message in messages.items():
        arrived = pickle.loads(pickle.dumps(message))
        assert type(arrived) is type(message)
        assert_same_bits(arrived, message, f"{name}, before and after travelling,")


OF_AGENTS: tuple[Callable[[Case], None], ...] = (check_an_agent_acts_alone_as_in_episodes,)
CHECKS: tuple[Callable[[Case], None], ...] = tuple(
    check for name, check in globals().items() if name.startswith("check_") and check not in OF_AGENTS
)


OF_SETS = {check_rows_of_a_query_set_do_not_see_each_other, check_predictions_fit_the_task}
"""What asks of an algorithm what it predicts for the inputs of a query set: an agent has none. Neither is its gradient
that of one task's loss: it is an expectation's, so that no finite difference shows it."""


def name_of(check: Callable[[Case], None]) -> str:
    """As it stands in the name of a test."""
    return check.__name__.removeprefix("check_")


def checks_of(algorithm: type[Algorithm[Any, Any]], *, exact: bool = True) -> tuple[Callable[[Case], None], ...]:
    """The checks that apply. ``exact``: whether ``learn`` is the derivative of ``objective``, where there is one."""
    if issubclass(algorithm, Agent):
        return (*(check for check in CHECKS if check not in {*OF_SETS, check_finite_differences}), *OF_AGENTS)
    if exact and claims_a_derivative(algorithm):
        return CHECKS
    return tuple(check for check in CHECKS if check is not check_finite_differences)


def claims_a_derivative(algorithm: type[Algorithm[Any, Any]]) -> bool:
    """Whether ``learn`` is the derivative of ``objective``: said by the class, or by the meta-gradient it holds."""
    meta_gradient = getattr(algorithm, "meta_gradient", None)
    return bool(algorithm.differentiable if meta_gradient is None else meta_gradient.differentiable)
