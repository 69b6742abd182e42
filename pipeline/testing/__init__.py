"""The contract of an algorithm as tests of your own. In a test file, with pytest installed:

    import pipeline.testing

    test_contract = pipeline.testing.contract(MyAlgorithm)
    test_contract_on_my_data = pipeline.testing.contract(MyAlgorithm, net=MyNet, source=MySource(...))

Each line is a test for each of the checks in ``CHECKS``: purity, gradients, vectorisation, state, messages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pipeline.core.algorithm import Algorithm
from pipeline.core.source import TaskSource
from pipeline.nets.mlp import MLP
from pipeline.nets.net import Net
from pipeline.nets.normalisation import Mode
from pipeline.nets.policy import Policy
from pipeline.nets.seq2seq import Seq2Seq
from pipeline.testing.case import Case, assemble
from pipeline.testing.checks import CHECKS, checks_of, name_of
from pipeline.testing.tasks import small_tasks, taken_by

__all__ = ["CHECKS", "Case", "assemble", "checks_of", "contract", "small_tasks", "taken_by"]

SMALL: dict[type[Net], Callable[[], Any]] = {Seq2Seq: functools.partial(Seq2Seq.Config, embedding=8, hidden=8)}
"""A small configuration of a network whose default is slow in float64."""


def contract(
    algorithm: type[Algorithm[Any, Any]],
    config: Any = None,
    *,
    net: type[Net] | None = None,
    net_config: Any = None,
    source: TaskSource[Any] | None = None,
    normalisation: Mode = "none",
    exact: bool = True,
) -> Callable[..., None]:
    """A pytest function that holds an algorithm to the contract, one test for each check.

    Args:
        algorithm: the class under test.
        config: its configuration; by default ``algorithm.Config()``.
        net: the class of its network; by default an ``MLP``, for tasks of pairs a ``Seq2Seq`` and for worlds a
            ``Policy``.
        net_config: the network's configuration; by default ``net.Config()``.
        source: where tasks come from; by default small tasks of each sort that algorithm and network take.
        normalisation: the mode under which the network normalises.
        exact: whether ``learn`` is the derivative of ``objective``; false for a first-order variant. What claims no
            derivative is not compared with finite differences.
    """
    import pytest

    every = {name: small_tasks(name) for name in taken_by(algorithm)} if source is None else {"own": source}
    sources = {name: one for name, one in every.items() if net is None or one.spec().data in net.takes}
    config = algorithm.Config() if config is None else config

    @pytest.mark.parametrize("check", checks_of(algorithm, exact=exact), ids=name_of)
    @pytest.mark.parametrize("tasks", sources.values(), ids=sources)
    def test(tasks: TaskSource[Any], check: Callable[[Case], None]) -> None:
        spec = tasks.spec()
        own = net or next((one for one in (Seq2Seq, Policy) if spec.data in one.takes), MLP)
        built = assemble(algorithm, config, own, net_config or SMALL.get(own, own.Config)(), normalisation, spec)
        check(Case(built, tasks, normalisation))

    return test
