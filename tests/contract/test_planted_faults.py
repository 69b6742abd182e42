"""The contract's checks find what they are for: each fault is planted once, and its check must fail and say so."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.algorithms.maml import MAML
from pipeline.algorithms.protonet import ProtoNet
from pipeline.algorithms.reptile import Reptile
from pipeline.algorithms.rl2 import RL2
from pipeline.core.agent import Agent
from pipeline.nets.mlp import MLP
from pipeline.nets.policy import Policy
from pipeline.testing import checks
from pipeline.testing.case import Case, assemble
from tests.contract import net_checks
from tests.contract.cases import SPECS, small, source_of_kind
from tests.contract.net_checks import NetCase

pytestmark = pytest.mark.usefixtures("torch_threads")


class WritesToTheta(Reptile):
    """An inner optimizer that starts on the tensors it was given."""

    def learn(self, theta, task, context):
        learned = super().learn(theta, task, context)
        for leaf in theta["model"].values():
            leaf.sub_(1e-3)
        return learned


class WritesAndRestores(Reptile):
    """A write that is undone: another reader of the same memory may have looked meanwhile."""

    def adapt(self, theta, support, context):
        support.x.mul_(2)
        adapted = super().adapt(theta, support, context)
        support.x.div_(2)
        return adapted


class HasADeadLeaf(MAML):
    def init(self, rng):
        theta = super().init(rng)
        return {"model": theta["model"] | {"forgotten": torch.ones(3)}}


class ForgetsAGroup(MAML):
    def init(self, rng):
        return super().init(rng) | {"inner_lr": {"rate": torch.ones(())}}


class StartsAnywhere(MAML):
    def init(self, rng):
        return super().init(np.random.default_rng(random.randrange(2**32)))


class StartsAlwaysAlike(MAML):
    def init(self, rng):
        return super().init(np.random.default_rng(0))


class DropsOut(MAML):
    """Noise of its own instead of the ticket's: another answer on another worker."""

    def adapt(self, theta, support, context):
        adapted = super().adapt(theta, support, context)
        noise = {name: leaf * (torch.rand_like(leaf) < 0.9) for name, leaf in adapted.phi.items()}
        return adapted._replace(phi=noise)


class DrawsFromTheSystem(Reptile):
    """A generator that no ticket seeds: no global state moves, and yet no run can be repeated."""

    def draw(self, rng, task, phase):
        return super().draw(np.random.default_rng(), task, phase)


class StopsTracingEarly(MAML):
    def trace(self, theta, support, context):
        return tuple(super().trace(theta, support, context))[:-1]


class ForgetsSecondOrder(MAML):
    """First order that passes for second order."""

    def objective(self, theta, task, context):
        adapted = self.adapt(theta, task.support, context)
        constant = {
            name: start + (phi - start).detach()
            for (name, phi), start in zip(adapted.phi.items(), theta["model"].values(), strict=True)
        }
        return self.score(adapted._replace(phi=constant), task.query, context)


class LooksAtItsNeighbours(MAML):
    def predict(self, adapted, x):
        answers = super().predict(adapted, x)
        return answers - answers.mean(0)


class LooksAtPositions(MAML):
    def predict(self, adapted, x):
        answers = super().predict(adapted, x)
        return answers + torch.arange(len(x), dtype=answers.dtype).unsqueeze(1)


class AnswersTooFew(MAML):
    def predict(self, adapted, x):
        return super().predict(adapted, x)[:, :-1]


class StepsItsState(Reptile):
    state_groups = frozenset({"model"})

    def learn(self, theta, task, context):
        _, score = super().learn(theta, task, context)
        return {"model": theta["model"]}, score


class FoldsNothingIntoSomething(ProtoNet):
    """Running moments that decay even in a step without records."""

    def fold(self, theta, records):
        return {"running": {name: 0.9 * old for name, old in theta["running"].items()}}


class FoldsItsModel(ProtoNet):
    def fold(self, theta, records):
        return {"model": theta["model"]}


class CountsItsCalls(Reptile):
    """State on ``self``: what a task gives depends on the tasks before it, so a chunk and a loop differ."""

    calls = 0

    def adapt(self, theta, support, context):
        self.calls += 1
        adapted = super().adapt(theta, support, context)
        return adapted._replace(phi={name: leaf * (1 + 1e-6 * self.calls) for name, leaf in adapted.phi.items()})


class ScoresWithState(CountsItsCalls):
    def trace(self, theta, support, context):
        return (*tuple(super().trace(theta, support, context))[:-1], self.adapt(theta, support, context))


class SendsAFunction(MAML):
    """A score that holds what does not pickle."""

    def learn(self, theta, task, context):
        gradient, score = super().learn(theta, task, context)
        return gradient, score._replace(metrics={"accuracy": lambda: 1.0})


class ForgetsItsReward(RL2):
    """Served, it never hears what its actions gave."""

    def rewarded(self, adapted, reward, done):
        return adapted


class LearnsNothingFromOthers(RL2):
    def experience(self, adapted, episodes):
        return adapted


FAULTS = [
    (checks.check_inputs_are_not_changed, WritesToTheta, "none", "theta was written in place"),
    (
        checks.check_inputs_are_not_changed,
        WritesAndRestores,
        "none",
        "the support set was written in place, and restored",
    ),
    (checks.check_every_leaf_gets_gradient, HasADeadLeaf, "none", "dead leaf: no gradient reaches model/forgotten$"),
    (checks.check_every_leaf_gets_gradient, ForgetsAGroup, "none", "dead leaf: no gradient reaches inner_lr/rate"),
    (checks.check_init_depends_on_the_generator_alone, StartsAnywhere, "none", "init with the same generator differ"),
    (checks.check_init_depends_on_the_generator_alone, StartsAlwaysAlike, "none", "same theta for every generator"),
    (checks.check_randomness_comes_from_the_ticket, DropsOut, "none", "randomness outside the ticket"),
    (checks.check_randomness_comes_from_the_ticket, DrawsFromTheSystem, "none", "learnt twice, differ"),
    (checks.check_randomness_comes_from_the_ticket, CountsItsCalls, "none", "learnt twice, differ"),
    (checks.check_trace_ends_in_adapt, StopsTracingEarly, "none", r"in train, trace\(\)\[-1\] and adapt differ"),
    (checks.check_vectorised_learn_equals_the_loop, CountsItsCalls, "none", "gradient of model/.*: off by"),
    (checks.check_vectorised_score_equals_the_loop, ScoresWithState, "none", "loss: off by"),
    (checks.check_finite_differences, ForgetsSecondOrder, "none", "is not the derivative"),
    (checks.check_rows_of_a_query_set_do_not_see_each_other, LooksAtItsNeighbours, "none", "without the last row"),
    (checks.check_rows_of_a_query_set_do_not_see_each_other, LooksAtPositions, "none", "predictions of permuted rows"),
    (
        checks.check_rows_of_a_query_set_do_not_see_each_other,
        MAML,
        "none as transductive",
        "should depend on the other",
    ),
    (checks.check_predictions_fit_the_task, AnswersTooFew, "none", "2 outputs, the task needs 3"),
    (checks.check_an_agent_acts_alone_as_in_episodes, ForgetsItsReward, "none", "acted in one observation at a time"),
    (checks.check_an_agent_acts_alone_as_in_episodes, LearnsNothingFromOthers, "none", "experience changes nothing"),
    (checks.check_state_groups_are_folded_only, StepsItsState, "none", "gives a gradient for a state group"),
    (checks.check_state_groups_are_folded_only, FoldsNothingIntoSomething, "running", "fold without records"),
    (checks.check_state_groups_are_folded_only, FoldsItsModel, "running", "a group that is not a state group"),
]


def build(algorithm, mode, images, net=MLP) -> Case:
    mode, _, told = mode.partition(" as ")
    kind, net = ("control", Policy) if issubclass(algorithm, Agent) else ("classification", net)
    built = assemble(algorithm, small(algorithm.Config), net, small(net.Config), mode, SPECS[kind])
    return Case(built, source_of_kind(kind, images), told or mode)


@pytest.mark.parametrize(
    ("check", "algorithm", "mode", "message"),
    FAULTS,
    ids=[f"{fault.__name__}-{check.__name__}" for check, fault, *_ in FAULTS],
)
def test_a_broken_algorithm_is_found(check, algorithm, mode, message, small_images):
    with pytest.raises(AssertionError, match=message):
        check(build(algorithm, mode, small_images))


def test_each_check_of_the_contract_has_a_planted_fault():
    with_a_test_of_their_own = {checks.check_messages_can_travel}
    assert {check for check, *_ in FAULTS} == {*checks.CHECKS, *checks.OF_AGENTS} - with_a_test_of_their_own


def test_what_cannot_travel_is_found(small_images):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checks.check_messages_can_travel(build(SendsAFunction, "none", small_images))


class TorchsOwnBatchNorm(MLP):
    """What anybody would write. The loss is right; its second derivatives are wrong once vectorised."""

    def __call__(self, params, x, normalise):
        h = x.flatten(1) @ params["layer0/weight"].T
        h = F.batch_norm(h, None, None, params["layer0/scale"], params["layer0/bias"], training=True)
        h = torch.tanh(h) @ params["layer1/weight"].T
        h = torch.tanh(F.batch_norm(h, None, None, params["layer1/scale"], params["layer1/bias"], training=True))
        return h if self.outputs is None else h @ params["head/weight"].T + params["head/bias"]


class BiasBeforeNormalisation(MLP):
    """A bias that the normalisation takes out again: its gradient is rounding, of which Adam would make steps."""

    def init(self, rng):
        params = super().init(rng)
        return params | {"layer0/early": torch.zeros_like(params["layer0/bias"])}

    def __call__(self, params, x, normalise):
        def early(name, h, scale, shift):
            return normalise(name, h + params["layer0/early"] if name == "layer0" else h, scale, shift)

        return super().__call__(params, x, early)


class KeepsItsWeights(MLP):
    kept = None

    def __call__(self, params, x, normalise):
        self.kept = self.kept or params
        return super().__call__(self.kept, x, normalise)


class DetachesALayer(MLP):
    def __call__(self, params, x, normalise):
        return super().__call__(params | {"layer0/weight": params["layer0/weight"].detach()}, x, normalise)


class AnswersTooWide(MLP):
    def read_out(self, params, features):
        h = super().read_out(params, features)
        return h if self.outputs is None else torch.cat([h, h], 1)


class MeasuresItselfWrong(MLP):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.feature_shape = (self.widths[-1], 2)


NET_FAULTS = [
    (
        net_checks.check_weights_come_from_the_generator_and_stay_outside,
        KeepsItsWeights,
        "do not depend on the parameters",
    ),
    (net_checks.check_outputs_are_as_wide_as_asked, AnswersTooWide, "outputs of shape"),
    (net_checks.check_outputs_are_as_wide_as_asked, MeasuresItselfWrong, "features of shape"),
    (net_checks.check_vectorised_second_derivatives_equal_the_loop, TorchsOwnBatchNorm, "vectorised: off by"),
    (
        net_checks.check_second_derivatives_are_finite_differences,
        DetachesALayer,
        "derivative of layer0/weight: 0, finite",
    ),
]


@pytest.mark.parametrize(("check", "net", "message"), NET_FAULTS, ids=[fault.__name__ for _, fault, _ in NET_FAULTS])
def test_a_broken_network_is_found(check, net, message):
    with pytest.raises(AssertionError, match=message):
        check(NetCase(net, "transductive", SPECS["classification"]))


def test_each_check_of_a_network_has_a_planted_fault():
    assert {check for check, *_ in NET_FAULTS} == set(net_checks.NET_CHECKS)


def test_torchs_own_batch_norm_in_a_network_is_found(small_images):
    case = build(MAML, "transductive", small_images, TorchsOwnBatchNorm)
    checks.check_finite_differences(case)
    with pytest.raises(AssertionError, match="gradient of model/.*: off by"):
        checks.check_vectorised_learn_equals_the_loop(case)


def test_a_bias_before_a_normalisation_is_found(small_images):
    with pytest.raises(AssertionError, match="dead leaf: no gradient reaches model/layer0/early$"):
        checks.check_every_leaf_gets_gradient(build(MAML, "transductive", small_images, BiasBeforeNormalisation))
