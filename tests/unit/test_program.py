"""A prepared program gives the bits of the computation that it stands for, and knows where it must not stand in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.algorithms import ALGORITHMS
from pipeline.build import BuildWorker, build_components
from pipeline.engine import program
from pipeline.engine.chunks import chunks_of
from pipeline.engine.program import MOST_KEPT, Prepared
from tests.runtime import tiny

TRACED = [name for name in ALGORITHMS if name != "online_head"]  # which has no tiny recipe
DAILY = ("maml", "reptile", "protonet", "mamlpp", "multitask")
pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "PREPARED_AFTER", 1)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("name", [pytest.param(one, marks=() if one in DAILY else pytest.mark.slow) for one in TRACED])
def test_the_program_of_each_algorithm_gives_the_same_bits(name, small_images):
    recipe = tiny.recipe(name, small_images)
    worker, plain = (BuildWorker(recipe.model_dump_json())() for _ in range(2))
    plain.together.prepared = lambda key, compute, *trees: compute(*trees)
    theta = build_components(recipe).theta.numpy()
    for step in (1, 2, 3):
        (chunk,) = chunks_of(recipe.seed, step, 2, 2, purpose="train", split="train")
        (found, report), (wanted, expected) = worker.learn(theta, chunk), plain.learn(theta, chunk)
        np.testing.assert_array_equal(found.gradient, wanted.gradient)
        assert (report.loss, report.metrics, report.digest) == (expected.loss, expected.metrics, expected.digest)
        theta = theta - 0.01 * found.gradient
    if name in DAILY:
        assert bool(worker.together.prepared.programs) != worker.together.asked.for_the_step
    assert worker.together.asked.for_the_step == (name in ("mamlpp", "rl2"))


def calls(prepared: Prepared, *given: torch.Tensor) -> tuple[list[int], list[torch.Tensor]]:
    """How often the function itself was computed so far, and what was answered."""
    ran, answers = [], []

    def compute(tree):
        ran.append(1)
        return {"twice": tree["x"] * 2, "sum": tree["x"].sum()}

    for x in given:
        answers.append(prepared("key", compute, {"x": x})["twice"])
    return ran, answers


@pytest.mark.usefixtures("soon")
def test_a_program_is_kept_for_each_shape_and_type_and_for_no_more_than_so_many():
    prepared, x = Prepared(), torch.arange(3.0)
    ran, answers = calls(prepared, x, x, x + 1, x + 2)
    assert len(ran) == 3, "twice, and once to be traced"
    assert [answer.tolist() for answer in answers] == [[0, 2, 4], [0, 2, 4], [2, 4, 6], [4, 6, 8]]
    calls(prepared, x.double(), x.double())
    assert len(prepared.programs) == 2
    for size in range(4, 4 + 2 * MOST_KEPT):
        assert calls(prepared, *[torch.zeros(size)] * 3)[1][-1].shape == (size,)
    assert len(prepared.programs) == MOST_KEPT


@pytest.mark.usefixtures("soon")
def test_equal_operations_are_one_but_not_around_a_write():
    prepared = Prepared()

    def pure(x):
        return x.exp() + x.exp()

    def writes(x):
        kept = x.clone()
        before = kept.exp()
        kept.add_(1)
        return before + kept.exp()

    for compute in (pure, writes):
        for x in (torch.ones(2), torch.ones(2), torch.zeros(2)):
            torch.testing.assert_close(prepared(compute.__name__, compute, x), compute(x), rtol=0, atol=0)
    code = [one.run.code.count("aten.exp") for one in prepared.programs.values()]
    assert code == [1, 2]


@pytest.mark.usefixtures("soon")
def test_a_computation_of_too_many_operations_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(program, "MOST_OPERATIONS", 10)
    prepared = Prepared()

    def long(x):
        for _ in range(20):
            x = torch.func.grad(lambda v: v.square().sum())(x)
        return x

    for _ in range(4):
        assert prepared("key", long, torch.ones(2)).tolist() == [2.0**20] * 2
    assert list(prepared.programs.values()) == [None]
