"""Streams of rotated digits: rotations one after the other, the same classes in each, and other digits to answer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.tasks.digit_rotations import ROWS, DigitRotations

WAYS, SHOTS, QUERIES = 3, 8, 5


def source(train=(WAYS, SHOTS, QUERIES), judged=(WAYS, SHOTS, QUERIES), **config):
    return DigitRotations(DigitRotations.Config(**config), TaskShapes(TaskShape(*train), TaskShape(*judged)))


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """All images in [0, 1], and which digit each shows."""
    from sklearn.datasets import load_digits  # it takes a second to import

    loaded = load_digits()
    return loaded.images / 16, loaded.target


def rows_of(x: torch.Tensor) -> list[int]:
    """Which digit each image is; none is turned."""
    images, _ = digits()
    return [int(np.abs(images - one).sum((1, 2)).argmin()) for one in x[:, 0].numpy()]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_queries_are_other_digits_than_those_to_learn(split):
    task = source(degrees=1e-9).sample(Ticket(3, "evaluate", split, 0, 1))
    assert task.support.x.shape == (WAYS * SHOTS, 1, 8, 8)
    learned, asked = rows_of(task.support.x), rows_of(task.query.x)
    _, labels = digits()
    assert [labels[row] for row in learned + asked] == task.support.y.tolist() + task.query.y.tolist()
    assert max(learned) < ROWS["train"][1]
    first, last = ROWS[split]
    assert all(first <= row < last for row in asked)
    for part in range(WAYS):
        assert not {*learned[part * SHOTS :][:SHOTS]} & {*asked[part * QUERIES :][:QUERIES]}


def test_each_part_has_one_angle_and_queries_have_it_too():
    task = source(train=(1, SHOTS, QUERIES), judged=(2, SHOTS, QUERIES)).sample(Ticket(3, "evaluate", "test", 0, 1))
    angles = Ticket(3, "evaluate", "test", 0, 1).rng("task").uniform(0, 180, 2)
    from scipy import ndimage

    images = digits()[0].astype(np.float32)
    for angle, learned, asked in zip(angles, task.support.x.split(SHOTS), task.query.x.split(QUERIES), strict=True):
        turned = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
        for one in (*learned[:, 0].numpy(), *asked[:, 0].numpy()):
            assert np.abs(turned - one).sum((1, 2)).min() < 1e-4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": (1, 0, 5)}, r"task.train.shots: 0"),
        (
            {"train": (1, 1000, 300)},
            r"task.train.shots and train.queries: 1300 digits of a rotation, and there are 1200",
        ),
        ({"judged": (1, 5, 298)}, r"task.eval.queries: 298 digits of a rotation, and there are 297"),
    ],
)
def test_too_many_digits_end_in_one_line(changes, told):
    with pytest.raises(ConfigError, match=told) as caught:
        source(**changes)
    assert "\n" not in str(caught.value)
