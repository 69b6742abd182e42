"""What ``make bench`` compares is the same: the loop by hand, other libraries and our worker have one gradient."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.build import build_components
from pipeline.config import load
from tests.bench import duel, peak, speed_page
from tests.bench.by_hand.loop import Loop, Setting, settings
from tests.bench.by_hand.tasks import as_floats, drawer_of, training_pictures
from tests.bench.operations import operations
from tests.bench.precision import precision
from tests.bench.scenarios import SCENARIOS, recipe_of, write_random

CPU = torch.device("cpu")
SMALL = {
    "sinusoid": ["tasks_per_step=4", "chunk_size=2", "algorithm.inner_steps=3"],
    "conv4": ["net.channels=4", "tasks_per_step=2", "chunk_size=2", "algorithm.inner_steps=2"],
    "resnet12": ["net={name: resnet12, channels: [2, 3, 4, 4]}", "task.train.ways=3", "task.eval.ways=3"],
    "lstm": ["algorithm.hidden=6", "net.hidden=[5]", "source.side=8", "tasks_per_step=2", "chunk_size=2"],
    "protonet": ["net.channels=4", "task.train.ways=4"],
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_random(folder / "random.arrow")
    return folder


def small(name: str, folder: Path):
    return recipe_of(name, folder / "random.arrow", folder, tuple(SMALL[name]))


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.slow] * (one == "resnet12")) for one in SMALL])
def test_the_loop_by_hand_computes_what_our_worker_does(name, pictures, torch_threads, monkeypatch):
    monkeypatch.setattr("tests.bench.precision.STEPS", 3)
    recipe = small(name, pictures)
    components = build_components(recipe)
    found = precision(recipe, components.layout.unpack(components.theta), CPU, channels_last=False)
    assert found["float64"]["total"] < 1e-9
    for way in ("hand", "contiguous", "worker"):
        assert 1e-9 < found[way]["total"] < 1e-4
        assert found[way]["leaves"].keys() == components.layout.unpack(components.theta)["model"].keys()


@pytest.mark.parametrize("name", SMALL)
def test_a_loop_by_hand_draws_tasks_of_the_recipes_shapes_and_learns(name, pictures, torch_threads):
    recipe = small(name, pictures)
    components = build_components(recipe)
    loop = Loop(recipe, components.layout.unpack(components.theta), CPU, Setting())
    ours = components.source.sample(_ticket())
    expected = [*ours.support, *ours.query] if len(ours.support.x) else [*ours.query]
    (drawn,) = loop.draw(1)
    assert [part.shape for part in drawn] == [part.shape for part in expected]
    before = {leaf: weight.detach().clone() for leaf, weight in loop.weights.items()}
    loop.step()
    assert all(not torch.equal(before[leaf], weight) for leaf, weight in loop.weights.items())


def _ticket():
    from pipeline.core.seeding import Ticket

    return Ticket(0, "train", "train", 1, 0)


def test_pictures_by_hand_are_of_the_training_classes(pictures):
    recipe = small("conv4", pictures)
    table = as_floats(torch.from_numpy(training_pictures(recipe.source))).flatten(0, 2)
    known = {picture.numpy().tobytes() for picture in table}
    for support, y, *_ in drawer_of(recipe, CPU)(3):
        assert y.tolist() == list(range(5))
        assert {picture.numpy().tobytes() for picture in support} <= known
    assert training_pictures(recipe.source).shape[:3] == (4, 48, 20)


def test_all_settings_are_tried_on_a_cpu():
    assert len(settings(CPU, True, 8)) == 8
    assert len(settings(CPU, False, 1)) == 2
    assert Setting(2, True, True).says() == "2 threads, kept memory, channels last"


def test_operations_are_counted(pictures, torch_threads):
    recipe = small("conv4", pictures)
    components = build_components(recipe)
    loop = Loop(recipe, components.layout.unpack(components.theta), CPU, Setting())
    first_order = 3 * 10 * 2 * 14 * 14 * 9 * 4 * 1  # the first layer alone, forward and back, of ten pictures
    assert peak.flops(loop) * 1e9 > first_order
    x, w = torch.randn(2, 3, requires_grad=True), torch.randn(5, 3)
    loop.gradient = lambda weights, tasks: F.linear(x, w).sum().backward()
    assert peak.flops(loop) * 1e9 == pytest.approx(2 * 2 * (2 * 3 * 5))  # forward and back


def found_of(two: float, ours: float) -> dict:
    speed = {
        "tasks_per_s": 100.0,
        "cpu_ms_per_task": 1.0,
        "gflop_per_s": 50.0,
        "ratio": {"value": two, "low": two - 0.1, "high": two + 0.1},
        "memory_mb": {"this": 300.0, "ray::TaskWorker": 500.0},
        "memory_at_start_mb": {"this": 200.0, "ray::TaskWorker": 350.0},
        "stages": {"sampling": 0.1, "inner_loop": 0.8, "step_s": 0.02, "waiting": 0.1},
    }
    errors = {
        way: {"total": off, "leaves": {"a": off}}
        for way, off in (("hand", 1e-6), ("contiguous", 1e-6), ("worker", ours))
    }
    one = {
        "title": "a scenario",
        "due": 3.0,
        "trial": {"setting": [2, False, True], "tried": {"2 threads, channels last": 9.0, "1 thread": 8.0}},
        "ways": {"hand": speed, "ray_2": speed},
        "missing": {"higher": "it ended"},
        "two_workers": None,
        "errors": errors,
    }
    return {
        "peaks": {"fp32 matmul": 100.0, "bf16 matmul": 400.0},
        "scenarios": {"one": one},
        "seconds": 60.0,
        **dict.fromkeys(("machine", "torch", "commit", "date"), "M"),
        "cores": 2,
        "device": "cpu",
    }


def test_a_page_has_what_was_measured_and_what_is_missed():
    text = speed_page.page(found_of(2.5, 2e-6))
    row = "| Ray, 2 workers | 100 | 2.50 (2.40–2.60) | 1.00 | 25.0% | 500 (+150) |"
    assert row in text.splitlines()
    assert "| a loop by hand (2 threads, channels last) |" in text
    assert "| a scenario, 2 workers | 20.0 | 10.0% | 80.0% | 0.0% | 0.0% | 0.0% | 10.0% |" in text.splitlines()
    assert "Not measured in a scenario: higher (it ended)." in text
    assert len(speed_page.problems(found_of(2.5, 2e-6))) == 2
    assert speed_page.problems(found_of(3.5, 5e-7)) == []


@pytest.mark.bench
def test_the_operations_of_a_worker_are_told_apart():
    seconds, of = operations(load("sinusoid_maml", ["tasks_per_step=4", "chunk_size=2"]))
    assert seconds > 0
    assert of["aten::bmm"] > 0
    assert of["aten::convolution_backward"] == 0


@pytest.mark.bench
def test_a_way_that_cannot_be_measured_is_named_with_the_reason(tmp_path):
    spec = duel.Spec("hand", "none", "", str(tmp_path))
    with duel._started([spec], sys.executable, tmp_path) as (ready, missing):
        assert ready == []
    assert missing == {"hand": "hand ended with 1: KeyError: 'none'"}


@pytest.mark.ray
@pytest.mark.bench
def test_ways_are_measured_by_turns(tmp_path):
    found = duel.compare(
        "sinusoid", Path(), tmp_path, duel.QUICK, ways=("hand", "worker", "ray_1"), changes=("tasks_per_step=4",)
    )
    assert list(found["ways"]) == ["hand", "worker", "ray_1"]
    assert found["missing"] == {}
    for one in found["ways"].values():
        assert len(one["rates"]) == duel.QUICK.at_most
        assert one["tasks_per_s"] == np.median(one["rates"]) > 0
        assert one["cpu_ms_per_task"] >= 0
    assert found["ways"]["hand"]["ratio"]["value"] == 1
    stages = found["ways"]["ray_1"]["stages"]
    assert {"sampling", "inner_loop", "transport", "waiting", "step_s"} <= stages.keys()
    json.dumps(found)


def test_every_scenario_is_a_recipe(pictures):
    for name in SCENARIOS:
        assert recipe_of(name, pictures / "random.arrow", pictures).name == load(SCENARIOS[name].recipe).name
