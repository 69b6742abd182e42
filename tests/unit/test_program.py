"""A prepared program gives the bits of the computation that it stands for, and knows where it must not stand in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from pipeline.algorithms import ALGORITHMS
from pipeline.build import BuildWorker, build_components
from pipeline.engine import program, recorder
from pipeline.engine.chunks import chunks_of
from pipeline.engine.living import Living
from pipeline.engine.program import MOST_KEPT, Prepared, Program
from pipeline.engine.recorder import Recorder, Unrecordable
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
    for step in (1, 2, 3, 4):
        (chunk,) = chunks_of(recipe.seed, step, 2, 2, purpose="train", split="train")
        (found, report), (wanted, expected) = worker.learn(theta, chunk), plain.learn(theta, chunk)
        np.testing.assert_array_equal(found.gradient, wanted.gradient)
        assert (report.loss, report.metrics, report.digest) == (expected.loss, expected.metrics, expected.digest)
        theta = theta - 0.01 * found.gradient
    if name in DAILY:
        programs = worker.together.prepared.programs.values()
        assert any(one is not None and one.proven for one in programs) != worker.together.asked.for_the_step
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
    ran, answers = calls(prepared, x, x, x + 1, x + 2, x + 3)
    assert len(ran) == 4, "three times, and once to be written down"
    assert [answer[0].item() for answer in answers] == [0, 0, 2, 4, 6]
    calls(prepared, x.double(), x.double())
    assert len(prepared.programs) == 2
    for size in range(4, 4 + 2 * MOST_KEPT):
        assert calls(prepared, *[torch.zeros(size)] * 3)[1][-1].shape == (size,)
    assert len(prepared.programs) == MOST_KEPT


def code_of(made: Program) -> str:
    return made.run.__self__.code


def program_of(compute, *trees) -> Program:
    return Program(compute, *pytree.tree_flatten(trees))


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
        for x in (torch.ones(2), torch.ones(2), torch.zeros(2), torch.ones(2)):
            torch.testing.assert_close(prepared(compute.__name__, compute, x), compute(x), rtol=0, atol=0)
    assert [code_of(one).count("torch.exp") for one in prepared.programs.values()] == [1, 2]


@pytest.mark.usefixtures("soon")
def test_a_computation_of_too_many_operations_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(recorder, "MOST_OPERATIONS", 10)
    prepared = Prepared()

    def long(x):
        for _ in range(20):
            x = torch.func.grad(lambda v: v.square().sum())(x)
        return x

    for _ in range(4):
        assert prepared("key", long, torch.ones(2)).tolist() == [2.0**20] * 2
    assert list(prepared.programs.values()) == [None]


def test_what_is_neither_given_nor_computed_is_a_constant_that_no_run_changes():
    rates = torch.tensor([1.0, 10.0])

    def compute(x):
        count = torch.tensor(1.0)
        count.add_(1)
        return rates * x + count

    made = program_of(compute, torch.ones(2))
    for x in (torch.ones(2), torch.zeros(2), torch.ones(2)):
        assert torch.equal(made([x]), compute(x))
    rates *= 2
    assert made([torch.ones(2)]).tolist() == [4.0, 22.0], "it is the tensor itself, not a copy"


def test_views_lists_and_writes_through_a_view_are_kept():
    def compute(x):
        kept = x.clone()
        kept.t()[0].mul_(3)
        first, second = kept.split(1)
        low, places = (first - second).min(1)
        return {"low": low, "places": places, "rows": torch.stack([first, second]).expand(2, 2, 1, 3)[1, 0]}

    made = program_of(compute, torch.arange(6.0).view(2, 3))
    x = torch.tensor([[3.0, 1, 4], [1, 5, 9]])
    for name, answer in compute(x).items():
        assert torch.equal(made([x])[name], answer), name


def test_a_number_or_a_shape_made_of_values_and_a_draw_are_refused():
    for compute in (
        lambda x: x * x.sum().item(),
        lambda x: x if x.any() else -x,
        lambda x: x[x > 0].view(-1, 1).sum(0),
        lambda x: x.nonzero().view(-1, 1).sum(0),
        lambda x: x + torch.rand_like(x),
    ):
        with pytest.raises(Unrecordable):
            program_of(compute, torch.ones(3))


@pytest.mark.usefixtures("soon")
def test_a_program_that_fits_the_tensors_it_was_found_with_alone_is_given_up():
    """A function that is more than one of its tensors: it must not have the key of another."""
    prepared, factor = Prepared(), [1.0]

    def compute(x):
        factor[0] += 1
        return x * factor[0]

    answers = [prepared("key", compute, torch.ones(1)).item() for _ in range(5)]
    assert answers == [2.0, 3.0, 5.0, 6.0, 7.0], "once it was computed to be written down"
    assert list(prepared.programs.values()) == [None]


def test_rows_that_are_chosen_by_their_numbers_are_recorded():
    made = program_of(lambda x, rows: x[rows] * 2, torch.arange(3.0), torch.tensor([0, 1]))
    assert made([torch.arange(3.0), torch.tensor([2, 0])]).tolist() == [4.0, 0.0]


@pytest.mark.usefixtures("soon")
def test_a_program_whose_function_does_not_take_the_operations_arguments_is_given_up(monkeypatch):
    def picky(_: str) -> str:
        raise AssertionError

    monkeypatch.setattr(recorder, "_direct", lambda target: (lambda *_: picky()) if callable(target) else target)
    prepared = Prepared()
    assert [prepared("key", torch.exp, torch.zeros(1)).item() for _ in range(5)] == [1.0] * 5
    assert list(prepared.programs.values()) == [None]


@pytest.mark.parametrize("kind", [Recorder, Living])
def test_an_operation_is_told_without_torchs_compiler(kind):
    """torch wraps what it keeps its compiler away from, and imports the compiler at the first call."""
    assert not hasattr(kind.__torch_dispatch__, "__wrapped__")
