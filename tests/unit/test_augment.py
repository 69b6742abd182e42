"""Flips, crops and jitter: exact, drawn after all else from the ticket, of training tasks alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config import load
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape, TaskShapes
from pipeline.tasks import classfile
from pipeline.tasks.augment import Augmentation, grey, jitter_, shifted, together
from pipeline.tasks.images import Images

SIDES, EACH = (6, 5), 9
SPLITS = {"random": {"train": [0, 1, 2, 3], "test": [4, 5, 6, 7]}}


@pytest.fixture(scope="module", params=["grey", "rgb"])
def path(request, tmp_path_factory):
    shape = (8 * EACH, *SIDES, *((3,) if request.param == "rgb" else ()))
    pixels = np.random.default_rng(5).integers(1, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp(request.param) / "images.arrow"
    classfile.write(path, pixels, [EACH] * 8, list("abcdefgh"), SPLITS, "source")
    return path


def source(path, **settings) -> Images:
    shape = TaskShape(ways=3, shots=2, queries=4)
    return Images(Images.Config(str(path), **settings), TaskShapes(shape, shape))


def inputs(path, number: int, purpose="train", **settings) -> Tensor:
    split = "train" if purpose == "train" else "test"
    task = source(path, **settings).sample(Ticket(3, purpose, split, 0, number))
    return torch.cat([task.support.x, task.query.x])


def pictures(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(6).random(shape, dtype=np.float32))


ALL = {"train_flip": True, "train_crop": 2, "train_jitter": 0.4}


def test_a_flip_exchanges_left_and_right(path):
    plain, flipped = inputs(path, 0), inputs(path, 0, train_flip=True)
    found = [torch.equal(after, before.flip(-1)) for before, after in zip(plain, flipped, strict=True)]
    same = [torch.equal(after, before) for before, after in zip(plain, flipped, strict=True)]
    assert all(one != other for one, other in zip(found, same, strict=True))
    assert 0 < sum(found) < len(found)


def test_a_crop_is_the_picture_shifted_into_its_padding(path):
    plain, cropped, (height, width) = inputs(path, 0), inputs(path, 0, train_crop=2), SIDES
    seen = set()
    for before, after in zip(plain, cropped, strict=True):
        padded = np.pad(before.numpy(), ((0, 0), (2, 2), (2, 2)))
        fitting = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(padded[:, top : top + height, left : left + width], after)
        ]
        assert len(fitting) == 1
        seen |= {*fitting}
    assert len(seen) > 5


def test_a_shift_by_the_padding_is_no_shift():
    x = pictures(2, 3, 4, 5)
    assert torch.equal(shifted(x, 3, torch.tensor([[3, 3], [3, 3]])), x)
    assert torch.equal(shifted(x, 3, torch.tensor([[0, 3], [0, 3]]))[:, :, 3:], x[:, :, :1])
    assert not shifted(x, 3, torch.tensor([[0, 3], [0, 3]]))[:, :, :3].any()


def test_jitter_is_its_formula_pixel_by_pixel():
    x, factors = (
        pictures(4, 3, 3, 2),
        torch.tensor([[1.3, 1.0, 1.0], [0.5, 0.7, 1.0], [1.0, 1.6, 1.0], [0.9, 1.2, 0.2]]),
    )
    for picture, after, (b, c, s) in zip(x.numpy(), jitter_(x.clone(), factors).numpy(), factors.tolist(), strict=True):
        bright = np.clip(picture * b, 0, 1)
        mean = sum(share * colour.mean() for share, colour in zip((0.299, 0.587, 0.114), bright, strict=True))
        contrast = np.clip(mean + c * (bright - mean), 0, 1)
        luma = 0.299 * contrast[0] + 0.587 * contrast[1] + 0.114 * contrast[2]
        np.testing.assert_allclose(after, np.clip(luma + s * (contrast - luma), 0, 1), atol=1e-6)


def test_jitter_by_factors_of_1_changes_nothing_and_by_a_saturation_of_0_leaves_grey():
    x, ones = pictures(2, 3, 4, 4), torch.ones(2, 3)
    torch.testing.assert_close(jitter_(x.clone(), ones), x, atol=1e-6, rtol=0)
    faded = jitter_(x.clone(), ones * torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(faded, grey(x).expand_as(x), atol=1e-6, rtol=0)


def test_grey_pictures_have_brightness_and_contrast_alone():
    x = pictures(2, 1, 4, 4)
    some, other = (jitter_(x.clone(), torch.tensor([[0.8, 1.2, saturation]] * 2)) for saturation in (0.1, 1.0))
    assert torch.equal(some, other)
    bright = x * 0.8
    expected = bright.mean((1, 2, 3), keepdim=True) * -0.2 + bright * 1.2
    torch.testing.assert_close(some, expected.clamp(0, 1), atol=1e-6, rtol=0)


def test_the_same_bits_for_a_ticket_whichever_came_before(path):
    forward = [inputs(path, number, **ALL) for number in range(4)]
    one = source(path, **ALL)
    for number in reversed(range(4)):
        task = one.sample(Ticket(3, "train", "train", 0, number))
        assert torch.equal(torch.cat([task.support.x, task.query.x]), forward[number])
    assert not torch.equal(forward[0], forward[1])
    assert all(x.min() >= 0 and x.max() <= 1 for x in forward)


def test_a_chunk_has_the_bits_of_each_ticket(path):
    one, tickets = source(path, **ALL), [Ticket(3, "train", "train", 0, number) for number in range(4)]
    chunk = one.sample_chunk(tickets)
    for number, ticket in enumerate(tickets):
        task = one.sample(ticket)
        assert torch.equal(chunk.support.x[number], task.support.x)
        assert torch.equal(chunk.query.x[number], task.query.x)


def test_the_same_classes_and_labels_with_and_without(path):
    one, other = (source(path, **settings).sample(Ticket(3, "train", "train", 0, 7)) for settings in ({}, ALL))
    assert one.classes == other.classes
    assert torch.equal(one.support.y, other.support.y)
    assert torch.equal(one.query.y, other.query.y)


def test_evaluation_is_never_augmented(path):
    for purpose in ("evaluate", "serve"):
        assert torch.equal(inputs(path, 0, purpose), inputs(path, 0, purpose, **ALL))


def test_means_over_many_tickets():
    augmentation = Augmentation(flip=True, crop=2, jitter=0.4)
    tickets = [Ticket(3, "train", "train", 0, number) for number in range(500)]
    changes = together([augmentation.draw(ticket.rng("task"), 20) for ticket in tickets])
    assert abs(changes.flipped.float().mean() - 0.5) < 0.02
    shares = torch.stack([torch.bincount(axis, minlength=5) for axis in changes.shifts.T]) / len(changes.shifts)
    assert shares.shape == (2, 5)
    assert (shares - 0.2).abs().max() < 0.02
    assert (changes.factors.mean(0) - 1).abs().max() < 0.01
    assert changes.factors.min() >= 0.6
    assert changes.factors.max() <= 1.4
    assert (changes.factors.std(0) - 0.8 / 12**0.5).abs().max() < 0.01
    columns = torch.stack([changes.flipped.double(), *changes.shifts.T.double(), *changes.factors.T.double()])
    assert (torch.corrcoef(columns) - torch.eye(6)).abs().max() < 0.05


def test_a_crop_that_could_miss_all_of_a_picture_is_refused(path):
    assert source(path, train_crop=4).sample(Ticket(3, "train", "train", 0, 0)).ways == 3
    with pytest.raises(ConfigError, match=r"source\.train_crop: 5 pixels of padding, .* are 6×5, .*; use at most 4$"):
        source(path, train_crop=5)


def test_a_jitter_of_more_than_1_is_refused():
    with pytest.raises(ConfigError, match=r"source\.train_jitter: expected 1 or less, found 1\.5"):
        load("omniglot_protonet_5w1s", ["source.train_jitter=1.5"])
