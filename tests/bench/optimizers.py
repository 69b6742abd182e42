"""A learned optimiser against SGD and Adam, tuned: ``python -m tests.bench.optimizers DIR`` prints a table of a run.

All start from the same weights in the same test tasks and take as many steps; the rates of SGD and Adam are the best of
a grid on validation tasks. The start is the run's own: random for each task, or what a meta-LSTM learned.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.build import build_components
from pipeline.core.inner import SGD, Adam, Rule, iterate
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import Split, Ticket
from pipeline.core.source import TaskSource
from pipeline.core.types import Batch, Context, MetaParams, Params
from pipeline.families.learned_optimizer import LearnedUpdateRule
from pipeline.runs.run_folder import newest, pack, validate_folder

RULES: dict[str, Callable[[float], Rule]] = {"SGD": SGD, "Adam": Adam}
RATES = tuple(10 ** (exponent / 5) for exponent in range(-20, 6))
"""1e-4 to 10, five to a decade."""
TOGETHER = 50


class Contest(NamedTuple):
    """A learned optimiser, its theta, where its tasks come from and what they are judged by."""

    algorithm: LearnedUpdateRule
    theta: MetaParams
    source: TaskSource[Batch]
    metric: str
    higher_is_better: bool
    seed: int

    @classmethod
    def of(cls, folder: Path) -> Contest:
        """A run's newest theta, and its evaluation tasks."""
        recipe = validate_folder(folder)
        components = build_components(recipe)
        theta = components.layout.unpack(torch.from_numpy(pack(components.layout, newest(folder)[0])))
        loss = LOSSES[components.source.spec().loss]
        return cls(
            cast(LearnedUpdateRule, components.algorithm),
            theta,
            components.source,
            loss.metric,
            loss.higher_is_better,
            recipe.evaluation.seed,
        )

    def score(self, split: Split, tasks: int, rule: Rule | None = None) -> np.ndarray:
        """The metric of each task after the last step, by the learned optimiser or by another rule."""

        def one(support: Batch, query: Batch, noise: Params) -> Tensor:
            context = Context(0, "evaluate", ways, noise)
            if rule is None:
                phi = self.algorithm.last(self.theta, support, context)
            else:
                start, steps = self.algorithm.start(self.theta, context), self.algorithm.steps(context)
                fit = self.algorithm.support_loss(support, context)
                phi = deque(iterate(fit, start, steps, rule, first_order=True), maxlen=1)[0]
            adapted = self.algorithm.adapted(phi, support, context)
            return self.algorithm.score(adapted, query, context).metrics[self.metric]

        found, dtype = [], next(iter(self.theta["optimizer"].values())).dtype
        for first in range(0, tasks, TOGETHER):
            drawn = [self._draw(split, number) for number in range(first, min(first + TOGETHER, tasks))]
            ways = drawn[0][0]
            stacked = pytree.tree_map(lambda *leaves: torch.stack(leaves), *(tensors for _, tensors in drawn))
            stacked = pytree.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, stacked)
            with torch.no_grad():
                found.append(torch.func.vmap(one)(*stacked).double().numpy())
        return np.concatenate(found)

    def _draw(self, split: Split, number: int) -> tuple[int, tuple[Batch, Batch, Params]]:
        ticket = Ticket(self.seed, "evaluate", split, 0, number)
        task = self.source.sample(ticket)
        return task.ways, (task.support, task.query, self.algorithm.draw(ticket.rng("noise"), task, "evaluate"))

    def tuned(self, make: Callable[[float], Rule], tasks: int) -> float:
        """The best rate on validation tasks; one that diverges is the worst."""

        def badness(rate: float) -> float:
            mean = float(self.score("val", tasks, make(rate)).mean())
            return math.inf if math.isnan(mean) else -mean if self.higher_is_better else mean

        return min(RATES, key=badness)


def interval(values: np.ndarray) -> str:
    """The mean and half its 95% interval."""
    return f"{values.mean():.4f} ± {1.96 * values.std(ddof=1) / math.sqrt(len(values)):.4f}"


def table(contest: Contest, tasks: int, validation: int) -> str:
    learned = contest.score("test", tasks)
    rows = [("", contest.metric, "less the learned optimiser's, in pairs"), ("learned", interval(learned), "")]
    for name, make in RULES.items():
        rate = contest.tuned(make, validation)
        other = contest.score("test", tasks, make(rate))
        rows.append((f"{name}, rate {rate:.3g}", interval(other), interval(other - learned)))
    return "\n".join(f"{name:<20}{value:>20}{less:>42}" for name, value, less in rows)


def main(arguments: Sequence[str]) -> None:
    described = argparse.ArgumentParser(prog="python -m tests.bench.optimizers", description=__doc__)
    described.add_argument("folder", type=Path, metavar="DIR", help="of a finished run")
    described.add_argument("--tasks", type=int, default=600, help="test tasks (600)")
    described.add_argument("--validation", type=int, default=200, help="validation tasks for the rates (200)")
    asked = described.parse_args(arguments)
    torch.set_num_threads(1)
    sys.stdout.write(table(Contest.of(asked.folder), asked.tasks, asked.validation) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
