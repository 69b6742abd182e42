"""What is packaged: no recipe repeats its base, and what was recorded still counts as done."""

from __future__ import annotations

from importlib import resources

import pytest
import yaml

from pipeline import recipes
from pipeline.comparison.compare import identity, recipes_of
from pipeline.comparison.protocol import read
from pipeline.runs.recorded import RESULTS, load


def repeated(own, base, key=""):
    """Dotted keys that say what the base says already; a part with another name brings its own fields."""
    for name, value in own.items():
        old = base.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            if value.get("name", old.get("name")) == old.get("name"):
                yield from repeated(value, old, f"{key}{name}.")
        elif name in base and value == old:
            yield f"{key}{name}"


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_repeats_nothing_of_its_base(name):
    own = yaml.safe_load((resources.files(recipes) / f"{name}.yaml").read_text("utf-8"))
    base = recipes.read(own.pop("base")) if "base" in own else {}
    assert list(repeated(own, base)) == []


def test_a_repetition_is_found():
    base = {"steps": 3, "net": {"name": "mlp", "hidden": [8]}, "outer": {"model": {"lr": 0.1}}}
    own = {"steps": 3, "net": {"name": "conv4", "channels": 8}, "outer": {"model": {"lr": 0.1, "clip": 1.0}}}
    assert list(repeated(own, base)) == ["steps", "outer.model.lr"]


@pytest.mark.parametrize("name", recipes.protocol_names())
def test_every_row_of_a_protocol_is_recorded_and_counts_as_done(name):
    protocol = read(name)
    asked = {
        key: identity(protocol, recipe, protocol.methods[key].choose)
        for key, recipe in recipes_of(name, protocol, (), []).items()
    }
    assert {one.method: one.summary["identity"] for one in load(RESULTS / name)} == asked
