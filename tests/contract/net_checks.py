"""The contract of a network as functions of a case: pure, and right to the second derivative, alone or vectorised."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import init_rng
from pipeline.core.source import Spec
from pipeline.core.types import Batch, Params
from pipeline.nets.model import NormalisedNet
from pipeline.nets.net import Net
from pipeline.nets.normalisation import MODES, Mode
from pipeline.testing.case import SEED
from pipeline.testing.compare import CLOSE
from tests.contract.cases import PACKAGED, SPECS, small, variants

TASKS, SUPPORT, QUERY = 3, 4, 3
RATE = 0.1
DIFFERENCE = 1e-7


class NetCase(NamedTuple):
    """A network under a normalisation mode, and the shapes it must fit; ``outputs=None`` asks for an embedding."""

    net: type[Net]
    mode: Mode
    spec: Spec
    changes: tuple[tuple[str, Any], ...] = ()
    outputs: int | None = 3

    @property
    def id(self) -> str:
        return "-".join([self.net.__name__.lower(), self.mode, self.spec.loss, *(f"{n}={v}" for n, v in self.changes)])

    def model(self) -> NormalisedNet:
        config = small(self.net.Config, **dict(self.changes))
        net = self.net(config, self.spec.input_shape, self.outputs, normalised=self.mode != "none")
        return NormalisedNet(net, self.mode, self.spec.input_shape)

    def params(self, model: NormalisedNet) -> Params:
        return {name: leaf.double() for name, leaf in model.init(init_rng(SEED)).items()}

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Support [tasks, N, *input] and query inputs [tasks, M, *input] in float64."""
        rng = torch.Generator().manual_seed(SEED)
        x = torch.randn(TASKS, SUPPORT + QUERY, *self.spec.input_shape, generator=rng, dtype=torch.float64)
        return x[:, :SUPPORT], x[:, SUPPORT:]


def net_cases() -> list[NetCase]:
    """Every network × each shape of inputs that fits it × each of its variants × every mode.

    A network of sequences has other inputs: see ``tests/unit/test_exact_transduction.py``.
    """
    by_shape = {spec.input_shape: spec for spec in SPECS.values() if spec.tokens is None}
    nets = [net for net in PACKAGED.values() if Batch in net.takes]
    everything = itertools.product(nets, by_shape.values(), MODES)
    cases = [
        NetCase(net, mode, spec, tuple(change.items()))
        for net, spec, mode in everything
        for change in variants(net.Config)
    ]
    # A network knows of a mode only whether there is one, and a large one takes its time to be built.
    alike = {case: case._replace(mode="none" if case.mode == "none" else "support") for case in cases}
    fits = {one: _fits(one) for one in dict.fromkeys(alike.values())}
    return [case for case in cases if fits[alike[case]]]


def _fits(case: NetCase) -> bool:
    try:
        case.model()
    except ConfigError:
        return False
    return True


def check_weights_come_from_the_generator_and_stay_outside(case: NetCase) -> None:
    model, (support, _) = case.model(), case.inputs()
    params = case.params(model)
    assert all(torch.equal(leaf, params[name]) for name, leaf in case.params(case.model()).items())
    once = model.forward_own_statistics(params, support[0])[0]
    others = model.forward_own_statistics({name: leaf + 1 for name, leaf in params.items()}, support[0])[0]
    assert not torch.equal(others, once), "the outputs do not depend on the parameters of the call"
    assert torch.equal(model.forward_own_statistics(params, support[0])[0], once), "a call changed the network"


def check_outputs_are_as_wide_as_asked(case: NetCase) -> None:
    (support, _), model = case.inputs(), case.model()
    headless = case._replace(outputs=None)
    if _fits(headless):  # else it is all head
        embedding = headless.model()
        features = embedding.forward_own_statistics(headless.params(embedding), support[0])[0].shape
        assert features == (SUPPORT, embedding.net.features), f"features of shape {tuple(features)}"
        body, whole = set(headless.params(embedding)), set(case.params(model))
        assert body < whole, "an embedding is the network without its head"
    outputs = model.forward_own_statistics(case.params(model), support[0])[0]
    assert outputs.shape == (SUPPORT, case.outputs), f"outputs of shape {tuple(outputs.shape)}"


def check_vectorised_second_derivatives_equal_the_loop(case: NetCase) -> None:
    """Both ways round: one backward through vectorised tasks, as a worker takes it, and vectorised gradients."""
    model, (support, query) = case.model(), case.inputs()
    params, loss = case.params(model), _after_one_step(model)
    gradients = [grad(loss)(params, support[task], query[task]) for task in range(TASKS)]
    over_tasks = vmap(loss, in_dims=(None, 0, 0))
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    backward = torch.autograd.grad(over_tasks(leaves, support, query).sum(), list(leaves.values()))
    together = vmap(grad(loss), in_dims=(None, 0, 0))(params, support, query)
    largest = max(leaf.abs().max().item() for gradient in gradients for leaf in gradient.values())
    for name, through_vmap in zip(leaves, backward, strict=True):
        alone = torch.stack([gradient[name] for gradient in gradients])
        for off in (through_vmap - alone.sum(0), together[name] - alone):
            share = off.abs().max().item() / largest
            assert share <= CLOSE, f"second derivative of {name}, vectorised: off by {share:.1e} of the largest"


def check_second_derivatives_are_finite_differences(case: NetCase) -> None:
    model, (support, query) = case.model(), case.inputs()
    params, loss = case.params(model), _after_one_step(model)
    gradient, rng = grad(loss)(params, support[0], query[0]), torch.Generator().manual_seed(SEED)
    largest = max(leaf.norm().item() for leaf in gradient.values())
    for name, leaf in params.items():
        way = torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype)
        way /= way.norm()
        up, down = (
            loss(params | {name: leaf + sign * DIFFERENCE * way}, support[0], query[0]).item() for sign in (1, -1)
        )
        measured, claimed = (up - down) / (2 * DIFFERENCE), (gradient[name] * way).sum().item()
        assert abs(measured - claimed) <= 1e-6 * largest, (
            f"second derivative of {name}: {claimed:.9g}, finite differences {measured:.9g}"
        )


def _after_one_step(model: NormalisedNet) -> Callable[[Params, Tensor, Tensor], Tensor]:
    """The query loss after one step of gradient descent on a support set: its gradient has second derivatives."""

    def judge(outputs: Tensor) -> Tensor:
        return (outputs - torch.linspace(-1, 1, outputs.shape[1], dtype=outputs.dtype)).square().mean()

    def after(params: Params, support_x: Tensor, query_x: Tensor) -> Tensor:
        gradient = grad(lambda phi: judge(model.forward_own_statistics(phi, support_x)[0]))(params)
        phi = {name: leaf - RATE * gradient[name] for name, leaf in params.items()}
        running = model.running(params) if model.mode == "running" else None
        return judge(model.predict(model.adapted(phi, support_x, running), query_x))

    return after


NET_CHECKS: tuple[Callable[[NetCase], None], ...] = tuple(
    check for name, check in globals().items() if name.startswith("check_")
)
