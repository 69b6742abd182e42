"""The dry run: checks an algorithm on its first training tasks, so that a mistake in it is one line.

A loss that is not a number, a leaf that is never learned or an output of the wrong width would otherwise be an error
deep inside torch, or none at all: broadcasting accepts most shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.core.algorithm import Algorithm
from pipeline.core.failures import ConfigError, PipelineError, TaskError
from pipeline.core.flat import cast
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskSource, Tokens
from pipeline.core.types import Batch, Context, MetaParams, Pairs, Score, Task

TASKS = 3
"""The tasks on which a leaf must have no gradient to be reported: on one of them it may be chance."""


def check_algorithm(
    algorithm: Algorithm[Any, Any],
    source: TaskSource[Any],
    theta: MetaParams,
    seed: int,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Predict, score and learn one training task; learn two more where a gradient is missing.

    A task that is solved at the start (loss 0, accuracy 1) has no gradient, whatever the algorithm is: ``note`` is told
    of it.

    Raises:
        ConfigError: names the algorithm, what it gives and what was expected.
        TaskError: it raised.
    """
    name = type(algorithm).__name__
    spec = source.spec()
    width = spec.outputs if algorithm.needs.head or spec.targets == "values" else None
    unlearned: set[str] | None = None
    solved = 0
    for number in range(TASKS):
        task, context = _first(algorithm, source, theta, Ticket(seed, "train", "train", 1, number))
        with _error_context(name):
            if number == 0:
                _check_outputs(algorithm, theta, task, context, width, spec.tokens)
            gradient, score = algorithm.learn(theta, task, context)
        _check_score(name, score)
        _check_gradient(name, gradient, theta, algorithm.unstepped)
        still = {f"{group}/{leaf}" for group in gradient for leaf, value in gradient[group].items() if not value.any()}
        unlearned = still if unlearned is None else unlearned & still
        if not unlearned:
            return
        solved += _is_solved(score)
        with _error_context(name):
            # A leaf that reads an empty memory may learn nothing yet; the next task finds this one in the memory.
            theta = theta | algorithm.fold(theta, [score.records] if score.records else [])
    missing = ", ".join(sorted(unlearned or ()))
    if solved:
        note(
            f"algorithm {name}: {solved} of the first {TASKS} training tasks are solved at the start (loss 0, accuracy "
            f"1), so that no gradient reaches {missing}; harder tasks or a higher temperature give one"
        )
        return
    raise ConfigError(
        f"algorithm {name}: no gradient reaches {missing} (zero on {TASKS} training tasks); "
        "use it in the loss or leave it out of init, and see that no normalisation is left with one value"
    )


def _first(
    algorithm: Algorithm[Any, Any], source: TaskSource[Any], theta: MetaParams, ticket: Ticket
) -> tuple[Task[Any], Context]:
    dtype = next(leaf.dtype for leaves in theta.values() for leaf in leaves.values())
    task = source.sample(ticket)
    with _error_context(type(algorithm).__name__):
        noise = algorithm.draw(ticket.rng("noise"), task, "train")
    task, noise = cast((task, noise), dtype)
    return task, Context(ticket.step, "train", task.ways, noise)


def _check_outputs(
    algorithm: Algorithm[Any, Any],
    theta: MetaParams,
    task: Task[Any],
    context: Context,
    width: int | None,
    tokens: Tokens | None,
) -> None:
    name = type(algorithm).__name__
    with torch.no_grad():
        adapted = algorithm.adapt(theta, task.support, context)
        if isinstance(task.query, Batch):
            expected = (len(task.query.x), task.ways if width is None else width)
            _check_shape(name, algorithm.predict(adapted, task.query.x), expected)
        if isinstance(task.query, Pairs) and tokens is not None:
            _check_shape(name, algorithm.predict(adapted, task.query.x), (len(task.query.x), tokens.target_length))
        if algorithm.differentiable:
            _check_score(name, algorithm.objective(theta, task, context))
        _check_score(name, algorithm.score(adapted, task.query, context))


def _check_shape(name: str, answers: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(answers.shape) != expected:
        raise ConfigError(f"algorithm {name}: predict gives the shape {tuple(answers.shape)}, expected {expected}")


def _check_score(name: str, score: object) -> None:
    if not isinstance(score, Score):
        raise ConfigError(f"algorithm {name}: a score is {type(score).__name__}, expected Score(loss, metrics)")
    numbers = {"loss": score.loss} | {f"metric {metric}": value for metric, value in score.metrics.items()}
    for what, value in numbers.items():
        if value.shape:
            raise ConfigError(
                f"algorithm {name}: its {what} has the shape {tuple(value.shape)}, expected one number; "
                "take the mean over the examples"
            )


def _is_solved(score: Score) -> bool:
    accuracy = score.metrics.get("accuracy")
    return accuracy is not None and bool(accuracy == 1) and not bool(score.loss)


def _check_gradient(name: str, gradient: MetaParams, theta: MetaParams, unstepped: frozenset[str]) -> None:
    for group, leaves in gradient.items():
        if group not in theta or group in unstepped:
            raise ConfigError(f"algorithm {name}: learn gives a gradient for {group}, which no optimizer steps")
        shapes = {leaf: tuple(value.shape) for leaf, value in leaves.items()}
        for leaf, value in theta[group].items():
            if shapes.get(leaf) != tuple(value.shape):
                raise ConfigError(
                    f"algorithm {name}: learn gives {group}/{leaf} the shape {shapes.get(leaf)}, "
                    f"theta has {tuple(value.shape)}"
                )


@contextmanager
def _error_context(name: str) -> Iterator[None]:
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())
        raise TaskError(f"algorithm {name}: raised on its first task, {type(error).__name__}: {cause}") from error
