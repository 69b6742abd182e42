"""``python -m tests.bench.gaussian_process``: what the exact posterior reaches on the curves of a recipe's test.

It knows the kernel of each task, so that no method can be better but by chance.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from pipeline.build import source_of
from pipeline.config import load
from pipeline.core.seeding import Ticket
from pipeline.core.types import Points, Task
from pipeline.tasks.gp_curves import GPCurves, Kernel


def log_likelihoods(task: Task[Points], kernel: Kernel) -> tuple[float, float]:
    """The marginal and the joint log-likelihood of a task's query points, in nats a point."""
    shots, queries = (int(one.mask.sum()) for one in (task.support, task.query))
    x = np.concatenate([task.support.x[:shots, 0], task.query.x[:queries, 0]])
    y_N, y_Q = task.support.y[:shots, 0].numpy(), task.query.y[:queries, 0].numpy()
    cover = kernel.covariance(x)
    known = np.linalg.solve(cover[:shots, :shots], cover[:shots, shots:]).T
    off, cover_Q = y_Q - known @ y_N, cover[shots:, shots:] - known @ cover[:shots, shots:]
    variance = np.diag(cover_Q)
    marginal = -0.5 * (off**2 / variance + np.log(2 * np.pi * variance)).mean()
    _, determinant = np.linalg.slogdet(cover_Q)
    joint = -0.5 * (off @ np.linalg.solve(cover_Q, off) + determinant + queries * np.log(2 * np.pi))
    return float(marginal), float(joint / queries)


def main(arguments: list[str] | None = None) -> None:
    described = argparse.ArgumentParser(prog="python -m tests.bench.gaussian_process", description=__doc__)
    described.add_argument("recipe", help="a recipe whose source is gp_curves")
    described.add_argument("overrides", nargs="*", help="key=value")
    asked = described.parse_args(arguments)
    recipe = load(asked.recipe, asked.overrides)
    source = source_of(recipe)
    assert isinstance(source, GPCurves)
    tickets = [
        Ticket(recipe.evaluation.seed, "evaluate", recipe.evaluation.split, 0, number)
        for number in range(recipe.evaluation.tasks)
    ]
    found = np.array([log_likelihoods(*source.drawn(ticket)) for ticket in tickets])
    for name, values in zip(("marginal", "joint"), found.T, strict=True):
        interval = 1.96 * values.std(ddof=1) / len(values) ** 0.5
        sys.stdout.write(f"{name}: {values.mean():.3f} ± {interval:.3f} nats a point, {len(values)} tasks\n")


if __name__ == "__main__":
    main()
