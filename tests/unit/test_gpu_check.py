"""The prepared GPU check, on a CPU with small sizes: its parts run, and its page says what is missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.gpu import __main__ as check
from tests.bench.gpu import accuracy, page, parts
from tests.bench.scenarios import write_random


@pytest.fixture
def arguments(tmp_path, torch_threads, monkeypatch):
    monkeypatch.setattr("tests.bench.precision.STEPS", 1)
    write_random(tmp_path / "random.arrow")
    words = ["--device", "cpu", "--quick", "--omniglot", str(tmp_path / "random.arrow"), "--output", str(tmp_path)]
    return check.parser().parse_args([*words, "--accuracy", "maml", "--minutes", "0"])


def results(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.bench
def test_gradients_are_exact_and_a_program_gives_the_same_bits(arguments, tmp_path):
    parts.exact(arguments)
    found = {"exact": results(tmp_path, "exact")}
    assert found["exact"]["conv4/same_bits"] is found["exact"]["conv4_15q/same_bits"] is True
    assert "| conv4_15q |" in page.page(found)


def test_the_page_says_what_is_missed():
    exact = {name: {way: {"total": off} for way, off in (("hand", 1e-6), ("worker", 2e-6))} for name in ("conv4",)}
    workers = {str(count): {"theta": f"{count}" * 64, "gpus": 1 / count, "tasks_per_s": 10.0} for count in (1, 2)}
    found = {"exact": exact | {"conv4/same_bits": False}, "workers": workers, "speed": {}}
    missed = page.problems(found, quick=False)
    assert [line.split(":")[0] for line in missed] == [*exact, "conv4/same_bits", "workers", *page.DUE]
    assert page.problems(found, quick=True) == missed[:3]
    assert "| 2 | 0.5 | 10 | `2222222222222222` |" in page.page(found)


@pytest.mark.bench
def test_speeds_are_measured_at_each_size(arguments, tmp_path):
    parts.speed(arguments)
    found = results(tmp_path, "speed")
    assert list(found) == ["conv4/2", "conv4/4", "conv4_15q/2", "conv4_15q/4"]
    assert all(one[way]["tasks_per_s"] > 0 for one in found.values() for way in ("hand", "vectorised", "graphs"))
    assert "conv4/4, graphs" in page.page({"speed": found, "machine": {}})


@pytest.mark.bench
def test_a_schedule_goes_on_where_the_last_call_ended(arguments, tmp_path):
    first = accuracy.train(arguments)
    assert first["step"] == 1
    assert first["of"] == 6
    assert {path.name for path in tmp_path.glob("maml*")} == {"maml.json", "maml.tar.gz"}
    assert accuracy.train(arguments)["step"] == 2
    arguments.minutes = 1.0
    last = accuracy.train(arguments)
    assert last["step"] == 6
    assert 0 <= last["rows"][-1]["mean"] <= 1


@pytest.mark.bench
def test_a_part_over_its_limit_is_stopped_and_reported(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu", "--output", str(tmp_path), "--device", "cpu"])
    monkeypatch.setitem(check.LIMITS, "machine", 0.1)
    assert check.run_part("machine", arguments) == "stopped at its limit of 0.1 s"
