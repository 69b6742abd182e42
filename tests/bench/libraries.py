"""Second-order MAML by other libraries, each as its own examples write it, on the networks of the loop by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.bench.by_hand.gradients import HandTask, backward
from tests.bench.by_hand.loop import Loop
from tests.bench.by_hand.nets import Forward, Weights

SAME = 1e-3
"""How far a library's gradient may be from the loop's, relative to its norm: both are float32."""


class Network(nn.Module):
    """A network by hand as a module."""

    def __init__(self, forward: Forward, weights: Weights) -> None:
        super().__init__()
        self.compute = forward
        self.names = {name.replace("/", "_"): name for name in weights}
        for own, name in self.names.items():
            self.register_parameter(own, nn.Parameter(weights[name].detach()))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute({name: getattr(self, own) for own, name in self.names.items()}, x)


Loss = Callable[[Tensor, Tensor], Tensor]
Mean = Callable[[Network, Sequence[HandTask], Loss, float, int], None]


def learn2learn(net: Network, tasks: Sequence[HandTask], loss: Loss, rate: float, steps: int) -> None:
    maml = import_module("learn2learn").algorithms.MAML(net, lr=rate, first_order=False)
    for support_x, support_y, query_x, query_y in tasks:
        learner = maml.clone()
        for _ in range(steps):
            learner.adapt(loss(learner(support_x), support_y))
        backward(loss(learner(query_x), query_y) / len(tasks))


def higher(net: Network, tasks: Sequence[HandTask], loss: Loss, rate: float, steps: int) -> None:
    inner = torch.optim.SGD(net.parameters(), lr=rate)
    for support_x, support_y, query_x, query_y in tasks:
        with import_module("higher").innerloop_ctx(net, inner, copy_initial_weights=False) as (learner, optimizer):
            for _ in range(steps):
                optimizer.step(loss(learner(support_x), support_y))
            backward(loss(learner(query_x), query_y) / len(tasks))


def torchopt(net: Network, tasks: Sequence[HandTask], loss: Loss, rate: float, steps: int) -> None:
    library = import_module("torchopt")
    inner = library.MetaSGD(net, lr=rate)
    first = [library.extract_state_dict(one) for one in (net, inner)]
    for support_x, support_y, query_x, query_y in tasks:
        for _ in range(steps):
            inner.step(loss(net(support_x), support_y))
        backward(loss(net(query_x), query_y) / len(tasks))
        for one, state in zip((net, inner), first, strict=True):
            library.recover_state_dict(one, state)


MEANS: dict[str, Mean] = {"learn2learn": learn2learn, "higher": higher, "torchopt": torchopt}


def with_library(name: str, loop: Loop, recipe: Any) -> Loop:
    """The loop with a library's gradient in place of its own.

    Raises:
        ArithmeticError: the library gives another gradient.
    """
    loss = F.mse_loss if recipe.source.name == "sinusoid" else F.cross_entropy
    net = Network(loop.forward, loop.weights)
    parameters = {of: getattr(net, own) for own, of in net.names.items()}

    def gradient(weights: Weights, tasks: Sequence[HandTask]) -> None:
        MEANS[name](net, tasks, loss, recipe.algorithm.inner_lr, recipe.algorithm.inner_steps)

    tasks = loop.draw(1)
    expected = {of: grad.clone() for of, grad in loop.compute(tasks).items()}
    loop.gradient, loop.weights = gradient, parameters
    loop.adam = type(loop.adam)(parameters.values(), lr=1e-3, fused=True)
    found = loop.compute(tasks)
    apart = max(float((found[of] - one).norm() / one.norm()) for of, one in expected.items())
    if apart > SAME:
        raise ArithmeticError(f"{name}: its gradient is {apart:.1e} from the loop's")
    return loop
