"""Streams of sine waves: one wave after the other, each input with its wave's number."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch
from pipeline.tasks.sine_stream import SineStream

WAVES, SHOTS, QUERIES = 3, 6, 4


def source(train=WAVES, judged=WAVES, shots=SHOTS, **config):
    return SineStream(
        SineStream.Config(**config), TaskShapes(TaskShape(train, shots, QUERIES), TaskShape(judged, shots, QUERIES))
    )


def wave_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(A cos phase, -A sin phase) of the wave A sin(x - phase) through points [N, 1] and [N, 1]."""
    basis = torch.cat([x.sin(), x.cos()], 1)
    found = torch.linalg.lstsq(basis, y).solution
    assert (basis @ found - y).abs().max() < 1e-10
    return found.squeeze(1)


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_waves_come_one_after_the_other_and_inputs_say_which(purpose):
    task = source().sample(Ticket(3, purpose, "test", 0, 5))
    assert task.ways == WAVES
    waves = []
    for examples, each in ((task.support, SHOTS), (task.query, QUERIES)):
        assert torch.equal(examples.x[:, 1:].argmax(1), torch.arange(WAVES).repeat_interleave(each))
        assert torch.equal(examples.x[:, 1:].sum(1), torch.ones(WAVES * each, dtype=torch.float64))
        parts = zip(examples.x[:, :1].split(each), examples.y.split(each), strict=True)
        waves.append(torch.stack([wave_of(x, y) for x, y in parts]))
    assert torch.allclose(*waves, atol=1e-9), "the queries are of the stream's waves"
    assert (waves[0][0] - waves[0][1]).abs().max() > 1e-3


def test_amplitudes_and_points_are_within_their_bounds():
    stream = source(amplitude=(1.0, 1.5), x=(0.0, 2.0))
    for number in range(20):
        x, y = stream.sample(Ticket(3, "train", "train", 1, number)).support
        assert 0 <= x[:, 0].min() <= x[:, 0].max() <= 2
        norms = [wave_of(*one).norm() for one in zip(x[:, :1].split(SHOTS), y.split(SHOTS), strict=True)]
        assert all(1 <= norm <= 1.5 for norm in norms)


def test_the_spec_has_an_input_for_each_wave():
    assert source().spec() == Spec(Batch, (1 + WAVES,), 1, "values", "mean_squared_error")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"judged": 4}, r"task.eval.ways: 4, but .* task.train.ways = 3 waves"),
        ({"shots": 0}, r"task.train.shots: 0"),
        ({"x": (2.0, 2.0)}, r"source.x: \(2.0, 2.0\) is empty"),
    ],
)
def test_what_is_no_stream_ends_in_one_line(changes, told):
    with pytest.raises(ConfigError, match=told) as caught:
        source(**changes)
    assert "\n" not in str(caught.value)
