"""Run folders of earlier versions: what their keys mean today, and which of them go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import load
from pipeline.core.failures import ResumeError
from pipeline.runs.older import as_first_recorded, as_today
from pipeline.runs.run_folder import validate_folder

ROTATIONS = {"omniglot_maml_5w1s": ("classes", "random"), "sinusoid_maml": ("none", "none")}


def as_it_was(name: str) -> dict:
    """A recipe.yaml in the keys of the first version."""
    saved = load(name, ["source.path=some.arrow"] if name.startswith("omniglot") else []).model_dump(mode="json")
    for phase, turned in zip(("train", "eval"), ROTATIONS[name], strict=True):
        saved["source"].pop(f"{phase}_rotations", None)
        saved["task"][phase]["rotations"] = turned
    saved["source"].pop("query_order", None)
    return saved


def test_rotations_move_to_the_source_and_queries_stay_sorted(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_it_was("omniglot_maml_5w1s")))
    source = validate_folder(tmp_path).source
    assert (source.train_rotations, source.eval_rotations, source.query_order) == ("classes", "random", "sorted")


def test_a_source_without_rotations_gets_none(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_it_was("sinusoid_maml")))
    assert validate_folder(tmp_path).source.name == "sinusoid"


@pytest.mark.parametrize("saved", [{}, {"task": 3, "source": {}}, {"task": {"train": 1}, "source": {"name": "images"}}])
def test_what_has_no_rotations_is_left_as_it_is(saved):
    assert as_today(saved) == saved


def test_a_setting_that_came_later_does_not_change_the_facts_of_a_recorded_row():
    then = {
        "algorithm.name": "protonet",
        "source.name": "images",
        "task.train.rotations": "classes",
        "task.eval.rotations": "none",
    }
    now = {
        "algorithm.name": "protonet",
        "algorithm.batch": "apart",
        "algorithm.temperature": 1.0,
        "source.name": "images",
        "source.query_order": "sorted",
        "source.remember": 0,
        "source.train_rotations": "classes",
        "source.eval_rotations": "none",
    }
    assert as_first_recorded(now) == then
    for net, kept in (("seq2seq", False), ("resnet12", True)):  # one network had the setting from its beginning
        facts = as_first_recorded({"net.name": net, "net.dropout": 0.0})
        assert ("net.dropout" in facts) == kept
    for source, kept in (("images", False), ("of a plug-in", True)):
        assert ("source.remember" in as_first_recorded({"source.name": source, "source.remember": 0})) == kept
    assert as_first_recorded(now | {"algorithm.temperature": 2.0}) == then | {"algorithm.temperature": 2.0}


def test_a_run_of_before_a_setting_goes_on_where_it_has_the_value_of_then():
    """The checkpoint does not say the setting; a value that it never had is another run's."""
    facts = load("ciphers_maml").identity("data").facts()
    then = {part: {key: value for key, value in facts[part].items() if "dropout" not in key} for part in facts}
    assert set(facts["fixed"]) - set(then["fixed"]) == {"net.dropout"}
    same, evaluated, other = (
        load("ciphers_maml", change).identity("data") for change in ([], ["net.eval_dropout=0.2"], ["net.dropout=0.1"])
    )
    for now in (same, evaluated):
        now.check(then, "runs/x")
        assert now.is_of(then)
    assert not other.is_of(then)
    with pytest.raises(ResumeError, match=r"net.dropout: 0.0 -> 0.1 \(refused\)"):
        other.check(then, "runs/x")
    del then["fixed"]["net.hidden"]
    assert not same.is_of(then)
    with pytest.raises(ResumeError, match=r"net.hidden: none -> \d+ \(refused\)"):
        same.check(then, "runs/x")
