"""Bytes that an inner loop holds, step by step, in MAML and in iMAML with plain and with Newton steps.

``python -m tests.bench.memory`` prints the tables.

``torch.autograd.graph.saved_tensors_hooks`` would count what is saved for the backward pass, but ``torch.func.grad``
forbids them. So every tensor that any operation makes is counted, from when it is made until its memory is given back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.algorithms.imaml import IMAML
from pipeline.algorithms.maml import MAML
from pipeline.core.algorithm import require_grad
from pipeline.core.inner import InnerLoss
from pipeline.core.losses import LOSSES
from pipeline.core.seeding import init_rng
from pipeline.core.types import Batch, Context, Task
from pipeline.engine.living import Living
from pipeline.nets.conv4 import Conv4
from pipeline.nets.mlp import MLP
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Mode


class Unrolled(MAML):
    """MAML that keeps the graph of all its inner steps: its loss hides the tensors that it computes from."""

    def support_loss(self, support: Batch, context: Context) -> InnerLoss:
        loss = super().support_loss(support, context)
        return lambda phi, j: loss(phi, j)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "maml": (MAML, {}),
    "unrolled": (Unrolled, {}),
    "imaml": (IMAML, {}),
    "newton": (IMAML, {"inner_solver": "hessian_free"}),
}
STEPS = (1, 10, 16, 32, 64, 100)


class Problem(NamedTuple):
    """A network and a task of random numbers: ``ways`` of 1 is a regression of ten examples, else one shot each."""

    net: type[Net]
    mode: Mode
    input_shape: tuple[int, ...]
    ways: int

    def task(self) -> Task[Batch]:
        rng, rows = np.random.default_rng(0), 10 if self.ways == 1 else self.ways
        x = torch.from_numpy(rng.normal(size=(rows, *self.input_shape))).float()
        y = torch.arange(self.ways) if self.ways > 1 else torch.from_numpy(rng.normal(size=(rows, 1))).float()
        return Task("", Batch(x, y), Batch(x.clone(), y), self.ways)

    def model(self) -> NormalisedNet:
        net = self.net(self.net.Config(), self.input_shape, self.ways, normalised=self.mode != "none")
        return NormalisedNet(net, self.mode, self.input_shape)


PROBLEMS = {
    "mlp 1-40-40-1, 10 examples": Problem(MLP, "none", (1,), 1),
    "conv-4 of 64 channels, 5 images": Problem(Conv4, "transductive", (1, 28, 28), 5),
}


class Held(NamedTuple):
    """Bytes alive once the inner loop is done, for the backward pass; and the most at any time in ``learn``."""

    after_inner: int
    peak: int


def held(method: str, problem: Problem, steps: int) -> Held:
    kind, settings = METHODS[method]
    algorithm = kind(
        kind.Config(inner_lr=1e-3, inner_steps=steps, **settings),
        problem.model(),
        LOSSES["mean_squared_error" if problem.ways == 1 else "cross_entropy"].function,
    )
    first = algorithm.init(init_rng(0))
    theta = {group: {name: leaf.float() for name, leaf in leaves.items()} for group, leaves in first.items()}
    task, context = problem.task(), Context(1, "train", problem.ways, {})
    leaves = require_grad(theta, frozenset())
    with Living() as inner:
        end = algorithm.last(leaves, task.support, context)
        after_inner = inner.now
    del end
    with Living() as whole:
        algorithm.learn(theta, task, context)
    return Held(after_inner, whole.peak)


def slope(steps: Sequence[int], sizes: Sequence[int]) -> float:
    """Bytes for each further inner step, by least squares."""
    return round(float(np.polyfit(steps, sizes, 1)[0]), 3) + 0.0


def table(name: str, problem: Problem) -> str:
    lines = [f"{name}: kB alive after the inner loop | at most, in the whole of learn"]
    lines += ["".join(f"{word:>12}" for word in ("", *STEPS, "per step"))]
    for method in METHODS:
        found = [held(method, problem, steps) for steps in STEPS]
        for what, sizes in (("inner", [one.after_inner for one in found]), ("peak", [one.peak for one in found])):
            numbers = [*sizes, slope(STEPS, sizes)]
            lines.append(f"{method + ' ' + what:>12}" + "".join(f"{number / 1e3:>12,.1f}" for number in numbers))
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, problem in PROBLEMS.items():
        sys.stdout.write(table(name, problem) + "\n\n")
