"""What a run prints of its recipe: the differences from the packaged one."""

from __future__ import annotations

import pytest

from pipeline.config import load
from pipeline.runs.describe import describe
from pipeline.tracking.uri import ui_rows


def shown(recipe: str, *overrides: str) -> list[str]:
    return describe(load(recipe, overrides), recipe).splitlines()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_packaged_recipe_as_it_is_takes_one_line():
    assert shown("sinusoid_maml") == ["recipe sinusoid_maml, as packaged"]


def test_what_is_overridden_stands_beside_the_packaged_value():
    assert shown("sinusoid_maml", "steps=200", "net.hidden=[8]", "algorithm={name: reptile}")[:3] == [
        "recipe sinusoid_maml:",
        "  steps: 200 (packaged: 3000)",
        "  algorithm.name: reptile (packaged: maml)",
    ]
    assert "  net.hidden: [8] (packaged: [40, 40])" in shown("sinusoid_maml", "net.hidden=[8]")


def test_a_drawn_seed_is_shown():
    (_, line) = shown("sinusoid_maml", "seed=null")
    assert line.startswith("  seed: ")


def test_a_file_is_compared_with_the_packaged_recipe_at_the_end_of_its_bases(here):
    (here / "mine.yaml").write_text("base: sinusoid_maml\ntracking: {uri: 'http://me:hunter2@lab:5000'}\n")
    (here / "wider.yaml").write_text("base: mine.yaml\nnet: {hidden: [80]}\n")
    title, *lines = shown("wider.yaml")
    assert title == "recipe wider, based on sinusoid_maml:"
    assert [line.split(":")[0].strip() for line in lines] == ["net.hidden", "tracking.uri"]
    assert "hunter2" not in "".join(lines)


def test_a_file_without_a_base_is_shown_as_a_whole(here):
    from pipeline import recipes

    (here / "mine.yaml").write_text(recipes.dump(load("sinusoid_maml").public()))
    title, *lines = shown("mine.yaml")
    assert title == "recipe sinusoid_maml:"
    assert "  algorithm.inner_lr: 0.01" in lines
    assert "  tracking.uri: sqlite:///mlflow.db" in lines


@pytest.mark.parametrize(
    ("command", "rows"), [("mlflow ui", ["run mlflow ui", "open http://l"]), ("", ["open http://l"])]
)
def test_the_rows_of_mlflow_say_what_to_run_and_what_to_open(command, rows):
    found = ui_rows(command, "http://l")
    assert list(found.values()) == rows
    assert next(iter(found)) == "MLflow UI"
