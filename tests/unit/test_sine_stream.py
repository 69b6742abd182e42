"""Streams of sine waves: one wave after the other, each input with its wave's number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.build import build_components, build_worker
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec, TaskShape, TaskShapes
from pipeline.core.types import Batch
from pipeline.engine.interfaces import Chunk
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
    assert source().spec() == Spec(Batch, (1 + WAVES,), 1, "values", "squared_error_by_part")


def test_a_run_measures_each_wave_at_the_end_of_each():
    """The mean of the waves' errors is the error, and what is kept follows from them."""
    changes = ["algorithm.inner_batch=3", "net.hidden=[4]", "evaluation.tasks=2", "steps=1", "tasks_per_step=1"]
    shapes = [f"task.{phase}={{ways: 3, shots: 6, queries: 2}}" for phase in ("train", "eval")]
    recipe = config.load("sine_stream_oml", [*changes, *shapes, "chunk_size=1"])
    worker = build_worker(recipe, build_components(recipe))
    tickets = tuple(Ticket(3, "evaluate", "test", 0, number) for number in range(2))
    report = worker.score(build_components(recipe).theta.numpy(), Chunk(0, 0, tickets))
    assert report.points == (0, 2, 4, 6)
    waves = np.stack([report.metrics[f"mse_{part}"] for part in (1, 2, 3)], 2)
    assert np.allclose(waves.mean(2), report.metrics["mse"], rtol=1e-5)
    transfer = ((waves[:, 3, 0] - waves[:, 1, 0]) + (waves[:, 3, 1] - waves[:, 2, 1])) / 3
    assert np.allclose(report.metrics["mse_backward_transfer"][:, 3], transfer)


@pytest.mark.parametrize("name", ["ridge", "mann"])
def test_a_method_that_adapts_at_once_measures_each_wave_and_nothing_that_is_kept(name):
    changes = ["net={name: mlp, hidden: [4]}", "evaluation.tasks=2", "chunk_size=1", f"algorithm={{name: {name}}}"]
    shapes = [f"task.{phase}={{ways: 3, shots: 6, queries: 2}}" for phase in ("train", "eval")]
    recipe = config.load("sine_stream_oml", [*changes, *shapes])
    components = build_components(recipe)
    tickets = (Ticket(3, "evaluate", "test", 0, 0),)
    report = build_worker(recipe, components).score(components.theta.numpy(), Chunk(0, 0, tickets))
    assert report.points == (0,)
    assert {"mse", "mse_1", "mse_3"} <= set(report.metrics)
    assert "mse_backward_transfer" not in report.metrics


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
