"""Sizes of tasks that are ``auto``: fitted to the classes of the data, or refused with the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import load
from pipeline.config.fitted import fitted
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.fitting import Room, fit
from pipeline.tasks import classfile

AUTO = dict.fromkeys(("ways", "shots", "queries"), "auto")


def room(ways: int, examples: int) -> Room:
    return Room.of([(f"class {number}", examples + number) for number in range(ways)])


def sizes(of_train: Room, of_test: Room, *, head: bool = False, **asked):
    both = {phase: AUTO | asked.get(phase, {}) for phase in ("train", "eval")}
    found = fit(both, {"train": of_train, "eval": of_test}, head=head)
    return tuple(tuple(found[f"{phase}.{name}"] for name in AUTO) for phase in ("train", "eval"))


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ((100, 30), (20, 30), ((20, 5, 5), (5, 5, 15))),  # all that there could be
        ((663, 7), (207, 7), ((20, 1, 5), (5, 1, 6))),  # emoji32
        ((3, 10), (2, 12), ((3, 5, 5), (2, 5, 7))),
        ((8, 9), (8, 40), ((8, 1, 5), (5, 1, 15))),  # as many shots in training as in evaluation
        ((2, 2), (2, 2), ((2, 1, 1), (2, 1, 1))),
    ],
)
def test_sizes_are_those_that_fit(train, test, expected):
    assert sizes(room(*train), room(*test)) == expected


def test_a_head_has_the_same_ways_in_both_phases():
    assert sizes(room(100, 30), room(3, 30), head=True) == ((3, 5, 5), (3, 5, 15))
    assert sizes(room(100, 30), room(30, 30), head=True, eval={"ways": 10}) == ((10, 5, 5), (10, 5, 15))


def test_what_is_given_stays_and_the_rest_follows_it():
    train, test = sizes(room(100, 12), room(20, 12), train={"ways": 30}, eval={"shots": 2})
    assert (train, test) == ((30, 2, 5), (5, 2, 10))


SPLITS = {"own": {"train": range(8), "val": range(8, 11), "test": range(11, 16)}}


@pytest.fixture
def pictures(tmp_path):
    """16 classes of 6 to 9 pictures, 16×16."""
    counts = [6 + number % 4 for number in range(16)]
    pixels = np.random.default_rng(0).integers(0, 256, (sum(counts), 16, 16, 3), np.uint8)
    splits = {name: {split: list(some) for split, some in sets.items()} for name, sets in SPLITS.items()}
    classfile.write(tmp_path / "own.arrow", pixels, counts, [f"class {n}" for n in range(16)], splits, "a test")
    return tmp_path / "own.arrow"


def own(path, *changes, recipe="own_images_protonet"):
    return load(recipe, [f"source.path={path}", "source.split=own", *changes])


def shapes(recipe):
    return tuple((shape.ways, shape.shots, shape.queries) for shape in (recipe.shapes().train, recipe.shapes().eval))


def test_the_packaged_recipes_fit_themselves(pictures):
    told = []
    assert shapes(fitted(own(pictures), told.append)) == ((8, 1, 5), (5, 1, 5))
    assert told == [
        f"fitted to the classes of {pictures}: task.train.ways=8 task.train.shots=1 task.train.queries=5 "
        "task.eval.ways=5 task.eval.shots=1 task.eval.queries=5"
    ]
    assert shapes(fitted(own(pictures, recipe="own_images_maml"))) == ((5, 1, 5), (5, 1, 5))
    validated = own(pictures, "evaluation.validate_every=5")
    assert shapes(fitted(validated))[1] == (3, 1, 5), "validation tasks have the shape of evaluation tasks"
    turned = own(pictures, "source.train_rotations=classes")
    assert shapes(fitted(turned))[0] == (20, 1, 5), "quarter turns are classes"


def test_numbers_that_do_not_fit_are_refused_all_at_once_with_those_that_would(pictures):
    wrong = own(pictures, "task.train.ways=30", "task.eval.ways=6", "task.eval.queries=15")
    with pytest.raises(DataError) as raised:
        fitted(wrong)
    assert str(raised.value) == (
        f"{pictures}, split set 'own': task.train.ways is 30, and there are 8 classes; task.eval.ways is 6, and there "
        "are 5 classes; task.eval takes 1 shots + 15 queries of each class, and 5 classes have fewer: 'class 11' (9), "
        "'class 12' (6), 'class 13' (7); use task.train.ways=8 task.eval.ways=5 task.eval.queries=5"
    )
    fixed = own(pictures, *str(raised.value).partition("; use ")[2].split())
    assert shapes(fitted(fixed)) == ((8, 1, 5), (5, 1, 5))


def test_a_split_that_no_task_fits_is_refused(tmp_path):
    pixels = np.zeros((5, 16, 16), np.uint8)
    splits = {"own": {"train": [0, 1], "test": [2]}}
    classfile.write(tmp_path / "few.arrow", pixels, [2, 1, 2], ["a", "b", "c"], splits, "a test")
    says = (
        r"the split train has 2 classes, and 1 classes have fewer: 'b' \(1\); a task needs 2 classes of 2 examples or"
    )
    with pytest.raises(DataError, match=says):
        fitted(own(tmp_path / "few.arrow"))


def test_an_evaluation_needs_the_evaluated_split_alone(tmp_path):
    pixels = np.zeros((9, 16, 16), np.uint8)
    classfile.write(tmp_path / "new.arrow", pixels, [3] * 3, ["a", "b", "c"], {"own": {"test": [0, 1, 2]}}, "a test")
    recipe = own(tmp_path / "new.arrow", "task.train.ways=20")
    assert fitted(recipe, learn=False).task.eval.model_dump() == {"ways": 3, "shots": 1, "queries": 2}


def test_auto_without_classes_to_count_is_refused():
    with pytest.raises(ConfigError, match=r"task.eval.ways: auto, but the source sinusoid has no classes to fit it to"):
        fitted(load("sinusoid_maml", ["task.eval.ways=auto"]))
    with pytest.raises(ConfigError, match="task.eval.ways: auto is fitted when a run begins; here give a number"):
        load("sinusoid_maml", ["task.eval.ways=auto"]).shapes()
