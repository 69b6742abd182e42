"""The sinusoid source: pure in the ticket, the published distribution, options that do what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.config import load
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch, Points
from pipeline.tasks.sinusoid import Sinusoid

TASKS = 4000


def source(shape: TaskShape | None = None, **fields) -> Sinusoid:
    shape = shape or TaskShape(1, 10, 10)
    return Sinusoid(Sinusoid.Config(**fields), TaskShapes(train=shape, eval=shape))


def tickets(count: int) -> list[Ticket]:
    return [Ticket(7, "train", "train", 0, index) for index in range(count)]


def waves(sinusoid: Sinusoid, count: int) -> np.ndarray:
    """Each task's weights on [sin x, cos x], from its first two support points: A cos(phase) and -A sin(phase)."""
    tasks = [sinusoid.sample(ticket) for ticket in tickets(count)]
    x = np.stack([task.support.x[:2, 0] for task in tasks])
    y = np.stack([task.support.y[:2, 0] for task in tasks])
    return np.linalg.solve(np.stack([np.sin(x), np.cos(x)], -1), y[..., None])[..., 0]


def test_spec_and_shapes():
    sinusoid = Sinusoid(Sinusoid.Config(), TaskShapes(train=TaskShape(1, 5, 7), eval=TaskShape(1, 2, 100)))
    assert sinusoid.spec() == Spec(Batch, (1,), 1, "values", "mean_squared_error")
    task = sinusoid.sample(Ticket(0, "train", "train", 3, 4))
    assert (task.id, task.ways, task.weight) == ("train/train/3/4", 1, 1.0)
    assert [tuple(part.shape) for part in (*task.support, *task.query)] == [(5, 1), (5, 1), (7, 1), (7, 1)]
    assert {part.dtype for part in (*task.support, *task.query)} == {torch.float64}
    evaluated = sinusoid.sample(Ticket(0, "evaluate", "test", 3, 4))
    assert (len(evaluated.support.x), len(evaluated.query.x)) == (2, 100)


def test_a_density_is_asked_for_on_the_same_tasks():
    values, density = source(), source(density=True)
    assert density.spec() == Spec(Points, (1,), 1, "values", "gaussian")
    assert density.fingerprint == values.fingerprint
    one, other = (each.sample(Ticket(7, "train", "train", 0, 3)) for each in (values, density))
    for batch, points in zip((one.support, one.query), (other.support, other.query), strict=True):
        assert torch.equal(points.x, batch.x)
        assert torch.equal(points.y, batch.y)
        assert points.mask.all()


def test_a_task_is_pure_in_its_ticket():
    forward = [source().sample(ticket) for ticket in tickets(5)]
    one = source()
    backward = [one.sample(ticket) for ticket in reversed(tickets(5))][::-1]
    for first, second in zip(forward, backward, strict=True):
        for left, right in zip((*first.support, *first.query), (*second.support, *second.query), strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize(
    "other",
    [
        Ticket(8, "train", "train", 1, 2),
        Ticket(7, "evaluate", "train", 1, 2),
        Ticket(7, "train", "test", 1, 2),
        Ticket(7, "train", "train", 2, 2),
        Ticket(7, "train", "train", 1, 3),
    ],
)
def test_every_part_of_the_ticket_counts(other):
    task = source().sample(Ticket(7, "train", "train", 1, 2))
    assert not torch.equal(task.support.y, source().sample(other).support.y)


def test_more_queries_leave_the_support_set_as_it_is():
    few, many = source(TaskShape(1, 10, 1)), source(TaskShape(1, 10, 50))
    for ticket in tickets(3):
        assert torch.equal(few.sample(ticket).support.x, many.sample(ticket).support.x)
        assert torch.equal(few.sample(ticket).support.y, many.sample(ticket).support.y)


def test_moments_are_the_published_ones():
    sinusoid = source(TaskShape(1, 1, 100))
    tasks = [sinusoid.sample(ticket).query for ticket in tickets(TASKS)]
    x, y = torch.stack([task.x for task in tasks]), torch.stack([task.y for task in tasks])
    for prediction, published in ((0.0, 4.25167), (-1.6234 * x.cos(), 3.00567)):
        of_task = (y - prediction).square().mean((1, 2))
        assert abs(of_task.mean() - published) < 4 * of_task.std() / math.sqrt(TASKS)
    slope = (y * x.cos()).sum() / x.cos().square().sum()
    assert abs(slope - -1.6234) < 0.05


def test_two_points_and_the_right_features_leave_no_error():
    sinusoid = source(TaskShape(1, 2, 50))
    for (on_sin, on_cos), ticket in zip(waves(sinusoid, 200), tickets(200), strict=True):
        query = sinusoid.sample(ticket).query
        error = on_sin * query.x.sin() + on_cos * query.x.cos() - query.y
        assert error.square().mean() < 1e-18


def test_ranges_are_those_of_the_config():
    found = waves(source(amplitude=(2.0, 3.0), phase=(1.0, 1.25), x=(0.5, 2.0)), 500)
    amplitude, phase = np.hypot(*found.T), np.arctan2(-found[:, 1], found[:, 0])
    assert amplitude.min() > 2.0 - 1e-6
    assert amplitude.max() < 3.0 + 1e-6
    assert np.ptp(amplitude) > 0.9
    assert phase.min() > 1.0 - 1e-6
    assert phase.max() < 1.25 + 1e-6
    assert np.ptp(phase) > 0.2
    inputs = torch.cat([source(x=(0.5, 2.0)).sample(ticket).query.x for ticket in tickets(100)])
    assert 0.5 <= inputs.min() < 0.55
    assert 1.95 < inputs.max() <= 2.0


def test_the_fingerprint_is_the_distribution_s():
    assert source().fingerprint == source(TaskShape(1, 3, 3)).fingerprint
    assert source().fingerprint != source(phase=(0.0, 3.0)).fingerprint


@pytest.mark.parametrize(
    ("fields", "train", "evaluate", "key"),
    [
        ({}, TaskShape(5), TaskShape(), "task.train.ways: 5"),
        ({}, TaskShape(), TaskShape(2), "task.eval.ways: 2"),
        ({"phase": (1.0, 1.0)}, TaskShape(), TaskShape(), r"source.phase: \(1.0, 1.0\)"),
        ({"amplitude": (5.0, 0.1)}, TaskShape(), TaskShape(), r"source.amplitude: \(5.0, 0.1\)"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_key(fields, train, evaluate, key):
    with pytest.raises(ConfigError, match=key):
        Sinusoid(Sinusoid.Config(**fields), TaskShapes(train=train, eval=evaluate))


@pytest.mark.parametrize("key", ["task.train.rotations", "task.eval.rotations", "source.train_rotations"])
def test_a_wave_has_no_rotations(key):
    with pytest.raises(ConfigError, match=f"{key.replace('.', '[.]')}: unknown key"):
        load("sinusoid_maml", [f"{key}=random"])
