"""Sequences of images: every class as often as asked, in random order under a random slot, made smaller exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.core.failures import ConfigError, DataError
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Stream
from pipeline.tasks import classfile
from pipeline.tasks.images import Images
from pipeline.tasks.sequences import Sequences, shares
from pipeline.tasks.sinusoid import Sinusoid

CLASSES, EACH, SIDE = 8, 6, 7
TASKS = 40
SHAPES = TaskShapes(TaskShape(3, 1, 1), TaskShape(3, 1, 1))
SPLITS = {"random": {"train": range(5), "test": range(5, 8)}}


def pixels(*colours: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (CLASSES * EACH, SIDE, SIDE, *colours), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences") / "grey.arrow"
    write(path, pixels())
    return path


def write(path, of) -> None:
    names = [f"class {number}" for number in range(CLASSES)]
    splits = {name: {split: list(classes) for split, classes in sets.items()} for name, sets in SPLITS.items()}
    classfile.write(path, of, [EACH] * CLASSES, names, splits, "source")


def source(path, side=None, training_order="balanced", rotations="none", **shape) -> Sequences:
    asked = TaskShape(**{"ways": 3, "shots": 0, "queries": 4, **shape})
    turned = {"train_rotations": rotations, "eval_rotations": rotations}
    config = Sequences.Config(str(path), side=side, training_order=training_order, **turned)
    return Sequences(config, TaskShapes(train=asked, eval=asked))


def ticket(number: int) -> Ticket:
    return Ticket(11, "train", "train", 0, number)


def owners(x: torch.Tensor) -> list[int]:
    """The class in the file of each image."""
    known = {image.tobytes(): row // EACH for row, image in enumerate(pixels())}
    return [known[image.tobytes()] for image in (x[:, 0] * 255).round().to(torch.uint8).numpy()]


def test_a_slot_is_one_class_and_each_class_comes_as_often_as_asked(path):
    sequences = source(path)
    for number in range(TASKS):
        task = sequences.sample(ticket(number))
        assert task.support.x.shape == (0, 1, SIDE, SIDE)
        assert task.query.y.bincount(minlength=3).tolist() == [4, 4, 4]
        assert len(set(zip(owners(task.query.x), task.query.y.tolist(), strict=True))) == 3
        assert len({image.numpy().tobytes() for image in task.query.x}) == 12


def test_an_independent_order_says_nothing_of_the_labels_to_come(path):
    sequences = source(path, training_order="independent", shots=1, queries=4)
    tasks = [sequences.sample(ticket(number)) for number in range(40 * TASKS)]
    slots = np.stack([task.query.y.numpy() for task in tasks])
    assert len({tuple(np.bincount(row, minlength=3)) for row in slots}) > 5, "counts should differ from task to task"
    # The last label, given that the first two were of slot 0: as likely 0 as any other.
    followed = slots[(slots[:, :2] == 0).all(1)][:, 2]
    assert np.abs(np.bincount(followed, minlength=3) / len(followed) - 1 / 3).max() < 0.1
    for task in tasks[:TASKS]:
        assert len(set(zip(owners(task.query.x), task.query.y.tolist(), strict=True))) <= 3
        images = [image.numpy().tobytes() for image in task.query.x]
        for slot in range(3):
            of_it = [image for image, y in zip(images, task.query.y.tolist(), strict=True) if y == slot]
            assert len(set(of_it)) == min(len(of_it), 4), "an image came again before all of its class had come"
    judged = sequences.sample(Ticket(11, "evaluate", "test", 0, 1))
    assert judged.query.y.bincount(minlength=3).tolist() == [4, 4, 4]


def test_order_and_slots_are_drawn_anew_for_each_task(path):
    tasks = [source(path).sample(ticket(number)) for number in range(TASKS)]
    assert len({tuple(task.query.y.tolist()) for task in tasks}) == TASKS
    pairs = {pair for task in tasks for pair in zip(owners(task.query.x), task.query.y.tolist(), strict=True)}
    assert len(pairs) == 5 * 3, "each of 5 classes should have had each of 3 slots"
    assert {int(task.query.y[0]) for task in tasks} == {0, 1, 2}


def test_shots_come_before_and_share_no_image(path):
    task = source(path, shots=2).sample(ticket(1))
    assert task.support.y.bincount().tolist() == [2, 2, 2]
    assert dict(zip(owners(task.support.x), task.support.y.tolist(), strict=True)) == dict(
        zip(owners(task.query.x), task.query.y.tolist(), strict=True)
    )


def test_a_class_is_turned_as_a_whole(path):
    known = {
        np.rot90(image, turn).tobytes(): (row // EACH, turn) for row, image in enumerate(pixels()) for turn in range(4)
    }
    seen = set()
    for number in range(TASKS):
        task = source(path, rotations="random").sample(ticket(number))
        raw = (task.query.x[:, 0] * 255).round().to(torch.uint8).numpy()
        turns = {
            (*known[np.ascontiguousarray(image).tobytes()], slot)
            for image, slot in zip(raw, task.query.y.tolist(), strict=True)
        }
        assert len(turns) == 3
        seen |= {turn for _, turn, _ in turns}
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_an_image_is_made_smaller_by_the_mean_over_the_area_of_a_pixel(path, side):
    """Against each pixel cut into side × side equal ones, and the mean of every 7 × 7 of those."""
    whole, small = source(path).sample(ticket(3)), source(path, side).sample(ticket(3))
    assert torch.equal(whole.query.y, small.query.y)
    cut = np.kron(whole.query.x[:, 0].double().numpy(), np.ones((1, side, side)))
    blocks = cut.reshape(len(cut), side, SIDE, side, SIDE).mean((2, 4))
    np.testing.assert_allclose(small.query.x[:, 0].numpy(), blocks, rtol=0, atol=1e-7)
    assert small.query.x.dtype == torch.float32


def test_shares_are_whole_numbers():
    of_28 = shares(28, 20)
    assert np.array_equal(of_28, of_28.round())
    assert of_28.sum(1).tolist() == [28.0] * 20
    assert of_28.sum(0).tolist() == [20.0] * 28


def test_colours(tmp_path):
    write(tmp_path / "colour.arrow", pixels(3))
    sequences = source(tmp_path / "colour.arrow", side=4)
    assert sequences.spec() == Spec(Stream, (3, 4, 4), 3, "slots", "cross_entropy", bounds=(0.0, 1.0))
    assert sequences.sample(ticket(0)).query.x.shape == (12, 3, 4, 4)
    whole = source(tmp_path / "colour.arrow").sample(ticket(0)).query.x
    known = {image.tobytes() for image in np.moveaxis(pixels(3), -1, 1)}
    assert {image.tobytes() for image in (whole * 255).round().to(torch.uint8).numpy()} <= known


def test_the_size_is_part_of_what_the_data_is(path):
    prints = [source(path, side).fingerprint for side in (None, 7, 5)]
    assert prints[0] == prints[1] != prints[2]
    assert len({source(path).fingerprint, Images(Images.Config(str(path)), SHAPES).fingerprint}) == 2


def test_errors_teach(path):
    with pytest.raises(ConfigError, match=r"source\.side: 8, but the images of .* are 7×7; use at most 7"):
        source(path, side=8)
    with pytest.raises(DataError, match=r"0 shots \+ 7 queries need 7 images per class, and 5 classes have fewer"):
        source(path, queries=7).sample(ticket(0))
    without = TaskShapes(SHAPES.train, TaskShape(3, 0, 1))
    for make in (
        lambda: Images(Images.Config(str(path)), without),
        lambda: Sinusoid(Sinusoid.Config(), without),
    ):
        with pytest.raises(ConfigError, match=r"task\.eval\.shots: 0, but there is nothing to adapt to; use 1 or more"):
            make()
