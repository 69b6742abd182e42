"""The line that a user's own test file has: it runs each check of the contract on an algorithm, and it finds faults."""

from __future__ import annotations

import pytest
import torch

import pipeline.testing
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.memoryrnn import MemoryRNN
from pipeline.algorithms.protonet import ProtoNet
from pipeline.algorithms.reptile import Reptile
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.nets.linear import Linear
from pipeline.nets.mlp import MLP
from pipeline.tasks.sinusoid import Sinusoid
from pipeline.testing.tasks import SPECS, taken_by

pytestmark = pytest.mark.usefixtures("torch_threads")


class Mine(MAML):
    """An algorithm that is in no registry."""


class Doubled(Linear):
    """A network that is in no registry."""

    def embed(self, params, x, normalise):
        return 2 * super().embed(params, x, normalise)


CURVES = Sinusoid(Sinusoid.Config(), TaskShapes(TaskShape(1, 4, 3), TaskShape(1, 3, 4)))

test_by_default_on_each_kind_of_task_it_takes = pipeline.testing.contract(Mine)
test_on_a_network_of_ones_own = pipeline.testing.contract(Mine, net=Doubled)
test_with_a_configuration_and_a_mode = pipeline.testing.contract(
    ProtoNet, net_config=MLP.Config(hidden=(16,)), normalisation="running"
)
test_a_first_order_variant = pipeline.testing.contract(Mine, Mine.Config(first_order=True), source=CURVES, exact=False)
test_on_tasks_of_ones_own = pipeline.testing.contract(Mine, source=CURVES)
test_sequences = pipeline.testing.contract(MemoryRNN, net_config=MLP.Config(hidden=(8,)))


class Forgetful(Mine):
    def extra_groups(self, rng, model):
        return {"inner_lr": {"rate": torch.ones(())}}


def test_a_broken_algorithm_fails_the_check_that_it_breaks():
    test = pipeline.testing.contract(Forgetful)
    failed = []
    for check in pipeline.testing.CHECKS:
        try:
            test(pipeline.testing.small_tasks("regression"), check)
        except AssertionError as error:
            failed.append((check.__name__, str(error)))
    assert failed == [("check_every_leaf_gets_gradient", "dead leaf: no gradient reaches inner_lr/rate")]


def test_each_kind_of_task_and_each_check_is_a_test_of_its_own():
    marks = {mark.args[0]: mark.args[1] for mark in pipeline.testing.contract(Mine).pytestmark}
    assert [source.spec() for source in marks["tasks"]] == [SPECS[name] for name in taken_by(Mine)]
    assert marks["check"] == pipeline.testing.CHECKS
    assert len(pipeline.testing.CHECKS) == 12


@pytest.mark.parametrize(("algorithm", "exact"), [(Mine, False), (Reptile, True)], ids=["first order", "reptile"])
def test_what_claims_no_derivative_is_not_compared_with_finite_differences(algorithm, exact):
    left_out = set(pipeline.testing.CHECKS) - set(pipeline.testing.checks_of(algorithm, exact=exact))
    assert [check.__name__ for check in left_out] == ["check_finite_differences"]


@pytest.mark.parametrize("kind", SPECS)
def test_small_tasks_fit_the_networks_that_tasks_of_the_registered_sources_fit(kind):
    assert pipeline.testing.small_tasks(kind).spec() == SPECS[kind]
