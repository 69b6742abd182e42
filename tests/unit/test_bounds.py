"""Bounds of a recipe's numbers: each has two, and what they admit neither crashes a process nor overflows."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from pipeline.build import build_components, worker_count
from pipeline.comparison.protocol import Protocol
from pipeline.config import Section, load, recipe_type
from pipeline.core.failures import ConfigError
from pipeline.core.seeding import init_rng
from pipeline.engine.outer.optimizer import Outer, build_optimizer, build_scheduler
from pipeline.storage import named, storage_at

pytestmark = pytest.mark.usefixtures("torch_threads")


def numbers(hint: Any, marks: tuple[Any, ...], key: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every number beneath a type, with its marks."""
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        yield from numbers(inner, (*marks, *more), key)
    elif isinstance(hint, type) and issubclass(hint, Section):
        for name, field in hint.model_fields.items():
            yield from numbers(field.annotation, tuple(field.metadata), f"{key}.{name}" if key else name)
    elif hint in (int, float):
        yield key, marks
    else:
        for inner in get_args(hint):
            yield from numbers(inner, marks, key)


ALL = [*numbers(recipe_type(), (), ""), *numbers(Protocol, (), "protocol")]


@pytest.mark.parametrize(("key", "marks"), ALL, ids=[key for key, _ in ALL])
def test_every_number_of_a_recipe_has_a_lower_and_an_upper_bound(key: str, marks: tuple[Any, ...]):
    if key in ("checkpoint.every", "evaluation.validate_every"):
        for beyond in (-1, 1_000_000_001):
            with pytest.raises(ConfigError, match="expected a number of outer steps"):
                load("sinusoid_maml", [f"{key}={beyond}"])
        return
    assert any(isinstance(mark, Ge | Gt) for mark in marks), f"{key} has no lower bound"
    assert any(isinstance(mark, Le | Lt) for mark in marks), f"{key} has no upper bound"


def test_numbers_are_found_in_every_section():
    keys = {key for key, _ in ALL}
    assert {
        "seed",
        "net.hidden",
        "net.arguments",
        "outer.lr",
        "algorithm.inner_lr",
        "source.phase",
        "numerics.threads",
    } <= keys
    assert {"task.train.shots", "workers.gpus", "protocol.seconds", "protocol.methods.steps"} <= keys


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("numerics.threads=100000", "numerics.threads: expected 512 or less, found 100000"),
        ("numerics.threads=2147483647", "numerics.threads: expected 512 or less, found"),
        ("outer.model.lr=1e38", "outer.model.lr: expected 1000000 or less, found 1e\\+38"),
        ("outer.model.weight_decay=3.5e38", "outer.model.weight_decay: expected 1000000 or less, found"),
        ("outer.model={schedule: step, step_factor: 1e308}", "outer.model.step_factor: expected 1 or less, found"),
        ("net.hidden=[1000000000000000000000000000000]", "net.hidden.0: expected 16384 or less, found"),
        (
            "net={name: module, factory: 'a:b', arguments: {width: 1000000000000000000000000000000}}",
            "net.arguments.width: expected 9007199254740992 or less, found 1000000000000000000000000000000",
        ),
        ("algorithm={name: metalstm, cell_size: 1000000000000}", "algorithm.cell_size: expected 16384 or less, found"),
        ("algorithm={name: matchingnet, temperature: 1e-300}", "algorithm.temperature: expected 1e-06 or more"),
        ("algorithm={name: reptile, inner_beta1: 1}", "algorithm.inner_beta1: expected 0.9999 or less, found"),
        ("algorithm.inner_steps=1000000000", "algorithm.inner_steps: expected 10000 or less, found"),
        ("steps=99999999999999999999", "steps: expected 1000000000 or less, found"),
        ("chunk_size=1267650600228229401496703205376", "chunk_size: expected 1048576 or less, found"),
        ("workers.gpus=1.5", "workers.gpus: expected 0, a share of one GPU .* or a whole number of GPUs, found 1.5"),
        ("workers.gpus=0.00001", "workers.gpus: expected 0, a share of one GPU"),
        ("tracking.experiment=''", "tracking.experiment: .* at least 1 character, found ''"),
    ],
)
def test_a_number_beyond_its_bounds_is_one_line(override: str, message: str):
    with pytest.raises(ConfigError, match=f"^recipe sinusoid_maml: {message}") as raised:
        load("sinusoid_maml", [override])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
def test_an_outer_optimizer_at_its_bounds_steps(optimizer: Any, schedule: Any):
    outer = Outer(optimizer=optimizer, schedule=schedule, lr=1e6, weight_decay=1e6, step_every=1, step_factor=1.0)
    parameter = torch.ones(3, requires_grad=True)
    made = build_optimizer(outer, parameter)
    scheduler = build_scheduler(outer, made, 10**9)
    for _ in range(3):
        parameter.grad = torch.full((3,), 1e3)
        made.step()
        scheduler.step()
    assert made.param_groups[0]["lr"] <= 1e6
    assert torch.isfinite(parameter).all()


def test_a_theta_that_no_memory_holds_is_refused_before_it_is_drawn():
    recipe = load("sinusoid_maml", ["algorithm={name: mann, hidden: 16384, width: 16384, reads: 256, slots: 65536}"])
    with pytest.raises(ConfigError, match=r"^net: its parameters do not fit into this machine's memory \(.* numbers"):
        build_components(recipe)


def test_the_generator_of_theta_draws_what_it_always_drew():
    ours, plain = init_rng(7), init_rng(7)
    bare = torch.from_numpy(type(ours).__mro__[1](plain.bit_generator).normal(0.0, 2.0, (5, 3)))
    assert torch.equal(torch.from_numpy(ours.normal(0.0, 2.0, size=(5, 3))), bare)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "--output: is empty; name a folder"),
        ("  ", "--output: is empty"),
        ("~nobody-of-that-name/x", "--output: ~nobody-of-that-name/x: .*; name the folder in full"),
        ("mock://x", "--output mock://x: is forgotten when the process ends; write a folder, or s3://bucket/run"),
    ],
)
def test_an_output_that_keeps_nothing_is_refused(output: str, message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        storage_at(output)


def test_an_output_in_the_home_folder_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named("~/x") == tmp_path / "x"
    assert storage_at("~/x").where == str(tmp_path / "x")


def test_no_more_workers_are_started_than_there_are_chunks():
    recipe = load("sinusoid_maml", ["workers.count=16"])
    assert worker_count(recipe, recipe.tasks_per_step) == 2
    assert worker_count(recipe, 600) == 16
    assert worker_count(load("sinusoid_maml", ["workers.count=1"]), 32) == 1


def test_the_hints_of_a_field_are_all_seen():
    assert list(numbers(typing.Annotated[int, Ge(1)] | None, (), "x")) == [("x", (Ge(1),))]
