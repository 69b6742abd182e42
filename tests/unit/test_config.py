"""Recipes: what is wrong is said in one line that names the key, the value and the way out; what is right loads."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from pydantic import ValidationError

from pipeline import recipes
from pipeline.algorithms import ALGORITHMS
from pipeline.build import build_components, outer_of
from pipeline.config import expected, load, plain, recipe_type, validate
from pipeline.core.failures import ConfigError, DataError
from pipeline.core.source import TaskShape
from pipeline.nets import NETS
from pipeline.runs.describe import describe
from pipeline.runs.dry_run import dry_run
from pipeline.runs.run_folder import validate_folder
from pipeline.tasks import SOURCES
from pipeline.tracking.commit import git_commit
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads")

KNOWN = "known are name, seed, steps"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # unknown keys, with the nearest known one
        (["step=3"], "step: unknown key, did you mean steps?"),
        (["algorithm.inner_lrr=0.1"], "algorithm.inner_lrr: unknown key, did you mean inner_lr?"),
        (["net.hiden=[3]"], "net.hiden: unknown key, did you mean hidden?"),
        (["source.phases=[0, 1]"], "source.phases: unknown key, did you mean phase?"),
        (["outer.model.lrr=0.1"], "outer.model.lrr: unknown key, did you mean lr?"),
        (["task.train.shot=3"], "task.train.shot: unknown key, did you mean shots?"),
        (["task.eval.query=3"], "task.eval.query: unknown key, did you mean queries?"),
        (["numerics.thread=1"], "numerics.thread: unknown key, did you mean threads?"),
        (["evaluation.task=1"], "evaluation.task: unknown key, did you mean tasks?"),
        (["tracking.experiment=''"], "tracking.experiment: string should have at least 1 character, found ''"),
        (["tracking.url=x"], "tracking.url: unknown key, did you mean uri?"),
        (["foo.bar=1"], f"foo: unknown key; {KNOWN}"),
        (["checkpoint.every=0"], "checkpoint.every: expected a number of outer steps, 1 or more, or auto, found 0"),
        (["checkpoint.every=true"], "checkpoint.every: expected a number of outer steps, .* found True"),
        (["checkpoint.every=often"], "checkpoint.every: expected a number of outer steps, .* found 'often'"),
        # unknown names
        (["algorithm.name=mmal"], "algorithm.name: unknown algorithm 'mmal'; did you mean maml"),
        (["net.name=conv"], "net.name: unknown net 'conv'; did you mean conv4?"),
        (["source.name=3"], "source.name: unknown source 3; known are sinusoid, images"),
        (["algorithm={inner_lr: 3}"], "algorithm.name: unknown algorithm None; known are maml"),
        (["algorithm=maml"], "algorithm: expected keys and values, found 'maml'"),
        (["algorithm=null"], "algorithm: expected keys and values, found None"),
        (["normalisation=batch"], "normalisation: expected 'transductive', .*'none', found 'batch'"),
        (["outer.model.optimizer=adm"], "outer.model.optimizer: expected 'adam', .*found 'adm'"),
        (["evaluation.split=dev"], "evaluation.split: expected 'train', .*'test', found 'dev'"),
        (
            ["source={name: images, path: x.arrow, eval_rotations: on}"],
            "source.eval_rotations: expected 'none', .*found 'on'",
        ),
        # types: no text for numbers, no true for 1, no 5.0 for 5
        (["steps=true"], "steps: expected a whole number, found True"),
        (["steps=five"], "steps: expected a whole number, found 'five'"),
        (["steps=5.0"], "steps: expected a whole number, found 5.0"),
        (["steps='5'"], "steps: expected a whole number, found '5'"),
        (["steps="], "steps: expected a whole number, found None"),
        (["algorithm.inner_lr=true"], "algorithm.inner_lr: expected a number, found True"),
        (["algorithm.inner_lr='0.1'"], "algorithm.inner_lr: expected a number, found '0.1'"),
        (["algorithm.first_order=1"], "algorithm.first_order: expected true or false, found 1"),
        (["algorithm.first_order=yes"], "algorithm.first_order: expected true or false, found 'yes'"),
        (["net.hidden=40"], "net.hidden: expected a list, found 40"),
        (["net=3"], "net: expected keys and values, found 3"),
        (["name=3"], "name: expected text, found 3"),
        (
            ["net={name: module, factory: 'a:b', arguments: {width: [1]}}"],
            "net.arguments.width: expected true or false, a whole number, a number or text, found ",
        ),
        (
            ["net={name: module, factory: 'a:b', arguments: {width: .nan}}"],
            "net.arguments.width: expected a finite number, found nan",
        ),
        # values
        (["algorithm.inner_lr=-1"], "algorithm.inner_lr: expected more than 0, found -1"),
        (["outer.model.lr=-1e-3"], "outer.model.lr: expected more than 0, found -0.001"),
        (["outer.model.lr=0"], "outer.model.lr: expected more than 0, found 0"),
        (["outer.model.clip=0"], "outer.model.clip: expected more than 0, found 0"),
        (["outer.model.beta1=1"], "outer.model.beta1: expected less than 1, found 1"),
        (["algorithm.inner_lr=.nan"], "algorithm.inner_lr: expected a finite number, found nan"),
        (["algorithm.inner_lr=.inf"], "algorithm.inner_lr: expected a finite number, found inf"),
        (["steps=0"], "steps: expected more than 0, found 0"),
        (["tasks_per_step=0"], "tasks_per_step: expected more than 0, found 0"),
        (["task.train.queries=0"], "task.train.queries: expected 1 or more, found 0"),
        (["chunk_size=3"], "chunk_size: expected a power of two, for example 2, found 3"),
        (["chunk_size=0"], "chunk_size: expected more than 0, found 0"),
        (["seed=-1"], "seed: expected 0 or more, found -1"),
        (["seed=99999999999999999999"], "seed: expected less than 18446744073709551616"),
        (["net.hidden=[40, 0]"], "net.hidden.1: expected 1 or more, found 0"),
        (["net.hidden=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"], "net.hidden: expected at most 16 items, found"),
        (["source.phase=[0, 1, 2]"], "source.phase: expected at most 2 items, found"),
    ],
)
def test_a_wrong_recipe_is_one_line(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=f"^recipe sinusoid_maml: {message}") as raised:
        load("sinusoid_maml", overrides)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


WRONG = [None, True, "x", -1e9, 1e300, 2.5, [], [None] * 99, {"x": 1}, float("nan")]
TAGS = {"union_tag_invalid", "union_tag_not_found"}
"""An unknown name has a sentence of its own, with the names that are known."""


@pytest.mark.parametrize("name", ["sinusoid_maml", "omniglot_reptile_5w1s", "omniglot_protonet_5w1s"])
def test_what_is_wrong_is_said_in_words_of_ours_whatever_the_field(name: str):
    """Another release of pydantic may put it otherwise."""
    whole = load(name).model_dump(mode="json")
    found = set()
    for key, value in itertools.product(recipes.flatten(whole), WRONG):
        data = copy.deepcopy(whole)
        *path, last = key.split(".")
        functools.reduce(dict.__getitem__, path, data)[last] = value
        try:
            recipe_type().model_validate_json(json.dumps(data))
        except ValidationError as error:
            for details in error.errors():
                found.add(details["type"])
                assert details["type"] in TAGS or expected(details).startswith("expected "), details["type"]
    assert len(found) > 10


IDLE: list[tuple[str, list[str], str, list[str]]] = [
    (
        "sinusoid_maml",
        ["outer.model.momentum=0.9"],
        "outer.model.momentum: 0.9 has no effect with optimizer: adam, it needs optimizer: sgd or rmsprop; change that,"
        " or leave momentum at its default, 0.0",
        ["outer.model.optimizer=sgd"],
    ),
    (
        "sinusoid_reptile",
        ["outer.model.beta1=0.5"],
        "outer.model.beta1: 0.5 has no effect with optimizer: sgd, it needs .* adam or adamw",
        ["outer.model.optimizer=adamw"],
    ),
    (
        "sinusoid_reptile",
        ["outer.model.beta2=0.5"],
        "outer.model.beta2: 0.5 has no effect",
        ["outer.model.optimizer=adam"],
    ),
    (
        "sinusoid_maml",
        ["outer.model.step_every=7"],
        "outer.model.step_every: 7 has no effect with schedule: cosine",
        ["outer.model.schedule=step"],
    ),
    (
        "sinusoid_maml",
        ["outer.model.step_factor=0.1"],
        "outer.model.step_factor: 0.1 has no effect",
        ["outer.model.schedule=step"],
    ),
    (
        "sinusoid_reptile",
        ["algorithm.inner_beta1=0.9"],
        "algorithm.inner_beta1: 0.9 has no effect with inner_optimizer: sgd",
        ["algorithm.inner_optimizer=adam"],
    ),
    (
        "sinusoid_imaml",
        ["algorithm.inner_lr=0.5"],
        "algorithm.inner_lr: 0.5 has no effect with inner_solver: hessian_free",
        ["algorithm.inner_solver=gradient"],
    ),
    (
        "omniglot_matchingnet_5w1s",
        ["algorithm.reads=5"],
        "algorithm.reads: 5 has no effect with full_context: false, it needs full_context: true",
        ["algorithm.full_context=true"],
    ),
    (
        "omniglot_ntm_5w1s",
        ["algorithm.forgetting=lru"],
        "algorithm.forgetting: lru has no effect with write: ntm, it needs write: lrua",
        ["algorithm.write=lrua"],
    ),
    (
        "omniglot_ntm_5w1s",
        ["algorithm.keep=0.5"],
        "algorithm.keep: 0.5 has no effect with forgetting: none",
        ["algorithm.forgetting=decay"],
    ),
    (
        "omniglot_mann",
        ["algorithm.keep=0.5"],
        "algorithm.keep: 0.5 has no effect with forgetting: lru",
        ["algorithm.forgetting=decay"],
    ),
    (
        "omniglot_mann",
        ["algorithm.forgetting=importance", "algorithm.fade=0.5"],
        "algorithm.fade: 0.5 has no effect",
        ["algorithm.forgetting=lru"],
    ),
    (
        "omniglot_metamemory_5w1s",
        ["algorithm.keep=0.5"],
        "algorithm.keep: 0.5 has no effect",
        ["algorithm.forgetting=decay"],
    ),
    (
        "sinusoid_gradient_memory",
        ["algorithm.keep=0.5"],
        "algorithm.keep: 0.5 has no effect",
        ["algorithm.forgetting=decay"],
    ),
    (
        "sinusoid_mamlpp",
        ["algorithm.inner_steps=1"],
        "algorithm.multi_step_until: 500 has no effect with inner_steps: 1",
        ["algorithm.inner_steps=2"],
    ),
    (
        "sinusoid_mbpa",
        ["algorithm.local_steps=0", "algorithm.eval_local_steps=1", "algorithm.pull=2"],
        "algorithm.pull: 2.0 has no effect with local_steps: 0 and eval_local_steps: 1, it needs local_steps"
        " other than 0 or 1 or eval_local_steps other than 0 or 1",
        ["algorithm.eval_local_steps=2"],
    ),
    (
        "sinusoid_maml",
        ["net={name: mlp, hidden: [], activation: tanh}"],
        r"net.activation: tanh has no effect with hidden: \[\]",
        ["net.hidden=[3]"],
    ),
    (
        "sinusoid_maml",
        ["evaluation.validate_every=0", "evaluation.validation_tasks=7"],
        "evaluation.validation_tasks: 7 has no effect with validate_every: 0",
        ["evaluation.validate_every=5"],
    ),
]


@pytest.mark.parametrize(("name", "overrides", "message", "mend"), IDLE)
def test_a_setting_that_has_no_effect_is_refused(name: str, overrides: list[str], message: str, mend: list[str]):
    with pytest.raises(ConfigError, match=f"^recipe {name}: {message}") as raised:
        load(name, overrides)
    assert "\n" not in str(raised.value)
    load(name, [*overrides, *mend])


def test_a_setting_without_effect_at_its_default_is_no_mistake():
    load("sinusoid_maml", ["outer.model.momentum=0", "outer.model.step_every=2000", "evaluation.validation_tasks=200"])


def test_all_settings_without_effect_are_said_at_once():
    with pytest.raises(ConfigError, match="has 2 problems:\n  outer.model.momentum: .*\n  outer.model.step_every: "):
        load("sinusoid_maml", ["outer.model.momentum=0.9", "outer.model.step_every=7"])


def test_a_run_that_was_begun_with_a_setting_without_effect_can_still_be_used(here):
    saved = load("sinusoid_maml").public()
    saved["outer"]["model"]["momentum"] = 0.9
    (here / "recipe.yaml").write_text(recipes.dump(saved))
    assert validate_folder(here, ["evaluation.tasks=3"]).outer["model"].momentum == 0.9
    with pytest.raises(ConfigError, match=r"recipe.yaml: outer.model.beta1: 0.5 has no effect"):
        validate_folder(here, ["outer.model.optimizer=sgd", "outer.model.beta1=0.5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("novalue", "'novalue': expected key=value, for example algorithm.inner_lr=0.02"),
        ("=3", "'=3': expected key=value"),
        ("steps.x=1", "steps.x: steps is a value, it has no keys"),
        ("algorithm.inner_lr.x.y=1", "algorithm.inner_lr.x.y: algorithm.inner_lr is a value, it has no keys"),
        ("algorithm.inner_lr=[1", "algorithm.inner_lr=: no valid YAML"),
        ("algorithm={a: 1, a: 2}", "algorithm=: no valid YAML: duplicate key 'a'"),
    ],
)
def test_an_override_that_cannot_be_read_is_one_line(override: str, message: str):
    with pytest.raises(ConfigError) as raised:
        load("sinusoid_maml", [override])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit.__wrapped__() == "unknown"


def test_the_commit_is_that_of_the_code_that_was_loaded(monkeypatch):
    """A checkout while a run goes on would give it a commit that it never ran."""
    first = git_commit()
    monkeypatch.setenv("PATH", "")
    assert git_commit() == first


def test_all_problems_are_said_at_once():
    with pytest.raises(ConfigError) as raised:
        load("sinusoid_maml", ["steps=-1", "algorithm.inner_lrr=0.1", "net.name=conv", "seed=true"])
    first, *problems = str(raised.value).splitlines()
    assert first == "recipe sinusoid_maml has 4 problems:"
    assert [problem.split(":")[0].strip() for problem in problems] == [
        "seed",
        "steps",
        "algorithm.inner_lrr",
        "net.name",
    ]


def test_what_is_missing_is_named():
    data = recipes.read("sinusoid_maml")
    for key in ("steps", "algorithm", "normalisation", "task", "outer"):
        with pytest.raises(ConfigError, match=f"recipe mine: {key}: is missing"):
            validate({name: value for name, value in data.items() if name != key}, "mine")
    del data["task"]["eval"]
    with pytest.raises(ConfigError, match="recipe mine: task.eval: is missing"):
        validate(data, "mine")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("2.5e+1", 25.0), (".5", 0.5), ("5.", 5.0), ("1", 1.0), ("1e-05", 1e-5)],
)
def test_numbers_as_people_write_them(text: str, number: float):
    assert load("sinusoid_maml", [f"algorithm.inner_lr={text}"]).algorithm.inner_lr == number


@pytest.mark.parametrize(
    "text", ["010", "040", "-08", "00", "1:30", "1:30:00", "0x10", "0o10", "0b11", "1_000", "[3, 040]", "{a: 010}"]
)
@pytest.mark.parametrize("in_a_file", [True, False])
def test_whole_numbers_are_decimal_or_refused(here, text: str, in_a_file: bool):
    (here / "mine.yaml").write_text(f"base: sinusoid_maml\nseed: {text}\n")
    with pytest.raises(ConfigError, match="whole numbers are decimal, without a leading 0") as raised:
        load("mine.yaml") if in_a_file else load("sinusoid_maml", [f"seed={text}"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("text", "word"), [("True", "true"), ("FALSE", "false"), ("None", "null"), ("Null", "null")])
def test_a_word_that_is_nearly_yaml_s_is_refused_with_the_right_one(text: str, word: str):
    with pytest.raises(ConfigError, match=f"{text} in line 1: YAML's word is {word}; for the text write '{text}'"):
        load("sinusoid_maml", [f"algorithm.first_order={text}"])
    assert load("sinusoid_maml", [f"tracking.experiment='{text}'"]).tracking.experiment == text


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("10", 10), ("+4", 4), ("18446744073709551615", 2**64 - 1)])
def test_a_decimal_is_itself(text: str, number: int):
    assert load("sinusoid_maml", [f"seed={text}"]).seed == number


def test_overrides_are_applied_in_order_and_may_make_sections():
    recipe = load(
        "sinusoid_maml", ["steps=3", "steps=4", "tracking.log_every=7", "outer.model.clip=2", "task.eval.shots=1"]
    )
    assert (recipe.steps, recipe.tracking.log_every, recipe.outer["model"].clip) == (4, 7, 2.0)
    assert (recipe.task.eval.shots, recipe.task.train.shots) == (1, 10)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_lies_over_its_base(here):
    (here / "mine.yaml").write_text("base: sinusoid_maml\nsteps: 7\nalgorithm: {inner_lr: 1e-2}\n")
    (here / "other.yml").write_text("base: mine.yaml\nalgorithm: {name: reptile, inner_steps: 3}\n")
    base, mine, other = load("sinusoid_maml"), load("mine.yaml"), load("other.yml")
    assert (mine.name, mine.steps, mine.algorithm.inner_lr) == ("mine", 7, 0.01)
    assert mine.algorithm.eval_inner_steps == base.algorithm.eval_inner_steps
    assert mine.net == base.net
    assert (other.name, other.steps, other.algorithm.name, other.algorithm.inner_steps) == ("other", 7, "reptile", 3)
    assert other.algorithm.inner_lr == ALGORITHMS["reptile"].Config().inner_lr, "an algorithm brings its own fields"


def test_a_base_that_leads_back_is_named(here):
    (here / "a.yaml").write_text("base: b.yaml\n")
    (here / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"its base leads back to itself \(a.yaml -> b.yaml -> a.yaml\)"):
        load("a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nsteps: 4\n", "duplicate key 'steps' \\(lines 1 and 2\\)"),
        ("algorithm: {name: maml, inner_lr: 1, inner_lr: 2}\n", "duplicate key 'inner_lr'"),
        ("- a\n- b\n", "expected keys and values, found"),
        ("", "expected keys and values, found None"),
        ("steps: [1\n", "no valid YAML"),
        ("a:\tb: c\n", "no valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "no valid YAML"),
        ("base: sinusoid_mml\n", "did you mean sinusoid_maml?"),
        ("base: gone.yaml\n", "recipe gone.yaml: cannot be read"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(here, text: str, message: str):
    (here / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load("mine.yaml")
    assert "\n" not in str(raised.value)


def test_a_file_of_bytes_is_no_recipe(here):
    (here / "mine.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="recipe mine.yaml: cannot be read"):
        load("mine.yaml")


def test_a_name_that_is_not_packaged_finds_the_nearest(here):
    with pytest.raises(ConfigError, match="'sinusoid_mml': no packaged recipe .* did you mean sinusoid_maml"):
        load("sinusoid_mml")
    with pytest.raises(ConfigError, match="packaged are .*omniglot_maml_5w1s"):
        load("xyz")


@pytest.mark.parametrize("name", recipes.names())
def test_every_packaged_recipe_loads(name: str):
    recipe = load(name)
    assert recipe.name == name
    assert recipe.chunk_size <= recipe.tasks_per_step or recipe.steps == 1  # then chunks are the evaluation's
    assert not (recipe.algorithm.name in ("maml", "reptile") and recipe.normalisation == "running")
    if ALGORITHMS[recipe.algorithm.name].needs.head:
        fresh = "classes" in ALGORITHMS[recipe.algorithm.name].needs.targets  # a head of its own at evaluation
        assert fresh or recipe.task.eval.ways <= recipe.task.train.ways


@pytest.mark.parametrize("name", [name for name in recipes.names() if name.startswith("sinusoid")])
def test_every_packaged_recipe_that_needs_no_data_runs(name: str):
    dry_run(load(name))


def test_the_default_recipe_is_packaged():
    assert recipes.DEFAULT in recipes.names()


@pytest.mark.parametrize("name", recipes.names())
def test_a_saved_recipe_reads_back_as_itself(here, name: str):
    recipe = load(name, ["outer.model.lr=1.5e-7", "seed=18446744073709551615", "checkpoint.every=3"])
    (here / "saved.yaml").write_text(recipes.dump(recipe.public()))
    assert load("saved.yaml").model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    "text",
    [
        "True",
        "None",
        "NULL",
        "0o10",
        "0x1F",
        "1_000",
        "08",
        "plain",
        "yes",
        "true",
        "null",
        "~",
        "1e5",
        "1e-3",
        "007",
        "1:30",
        "2026-01-02",
        "a: b",
        "é #1",
        "",
    ],
)
def test_a_saved_text_stays_a_text(here, text: str):
    data = recipes.read("sinusoid_maml") | {"tracking": {"parent": text}}
    recipe = validate(data, "mine")
    (here / "saved.yaml").write_text(recipes.dump(recipe.public()))
    assert load("saved.yaml").tracking.parent == text


REGISTERED: list[tuple[str, str, type[Any]]] = [
    (section, name, cls.Config)
    for section, registry in (("algorithm", ALGORITHMS), ("net", NETS), ("source", SOURCES))
    for name, cls in registry.items()
]


@pytest.mark.parametrize(("section", "name", "config"), REGISTERED)
def test_a_registered_class_has_its_fields_in_recipes_and_the_same_defaults(section: str, name: str, config: type[Any]):
    required = {
        field.name: "x.arrow"
        for field in dataclasses.fields(config)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    data = recipes.read("sinusoid_maml") | {section: {"name": name, **required}}
    made = plain(getattr(validate(data, "mine"), section), config)
    assert made == config(**required)
    assert {field.name for field in dataclasses.fields(made)} == {field.name for field in dataclasses.fields(config)}


def test_a_recipe_cannot_be_changed():
    recipe = load("sinusoid_maml")
    for section in (recipe, recipe.algorithm, recipe.outer["model"]):
        with pytest.raises(ValidationError):
            section.steps = 3


def test_identity_is_what_decides_theta():
    constant = "outer.model.schedule=constant"
    base = load("sinusoid_maml", [constant]).identity("data").fixed
    assert {key.split(".")[0] for key in base} == {
        "data", "seed", "tasks_per_step", "chunk_size", "max_staleness", "algorithm", "net", "normalisation", "outer",
        "task", "source", "numerics",
    }  # fmt: skip
    for override in (
        "seed=2",
        "tasks_per_step=16",
        "chunk_size=8",
        "max_staleness=1",
        "algorithm.inner_lr=0.02",
        "algorithm.first_order=true",
        "net.hidden=[3]",
        "outer.model.lr=0.1",
        "outer.model.clip=1",
        "task.train.shots=3",
        "task.train.queries=3",
        "normalisation=layer",
        "numerics.dtype=float64",
    ):
        assert load("sinusoid_maml", [constant, override]).identity("data").fixed != base, override
    for override in (
        "steps=7",
        "workers.count=9",
        "task.eval.shots=3",
        "evaluation.seed=1",
        "checkpoint.keep=5",
        "tracking.log_every=1",
        "name=other",
        "algorithm.eval_inner_steps=3",
        "numerics.threads=2",  # compared with the numerics of the workers
        "tracking.uri=sqlite:///other.db",
    ):
        assert load("sinusoid_maml", [constant, override]).identity("data").fixed == base, override


def test_mlflows_own_settings_are_the_defaults_where_the_recipe_names_none(monkeypatch):
    before = load("sinusoid_maml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://lab:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    loaded = load("sinusoid_maml")
    assert (loaded.tracking.uri, loaded.tracking.experiment) == ("http://lab:5000", "mine")
    for line in ("  tracking.uri: http://lab:5000", "  tracking.experiment: mine"):
        assert [one for one in describe(loaded, "sinusoid_maml").splitlines() if one.startswith(f"{line} (packaged: ")]
    assert loaded.identity("data").fixed == before.identity("data").fixed
    named = load("sinusoid_maml", ["tracking.uri=sqlite:///own.db", "tracking.experiment=own"])
    assert (named.tracking.uri, named.tracking.experiment) == ("sqlite:///own.db", "own")

    # Another process has another environment: what was resolved here travels with the recipe.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert recipe_type().model_validate_json(loaded.model_dump_json()).tracking == loaded.tracking
    mlflow.set_tracking_uri("sqlite:////set/mlflow.db")
    assert load("sinusoid_maml").tracking.uri == "sqlite:////set/mlflow.db"
    mlflow.set_tracking_uri(None)
    assert load("sinusoid_maml").tracking == before.tracking


def test_no_password_is_in_what_a_checkpoint_carries():
    identity = load("sinusoid_maml", ["tracking.uri=http://me:secret@host:5000"]).identity("data")
    assert "secret" not in str(identity)


def test_a_field_is_marked_in_its_own_file_and_nowhere_else():
    """Reptile's evaluation fields, without a line about them in config.py."""
    identity = load("omniglot_reptile_5w1s").identity("data")
    free = {key for key in identity.free if key.split(".")[0] in ("algorithm", "source")}
    assert free == {
        "algorithm.eval_inner_steps",
        "algorithm.eval_inner_batch",
        "source.path",
        "source.eval_rotations",
        "source.eval_queries",
    }


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_steps_decide_theta_where_the_rate_follows_them(schedule: str):
    identities = [
        load("sinusoid_maml", [f"outer.model.schedule={schedule}", f"steps={steps}"]).identity("data").fixed
        for steps in (7, 8)
    ]
    assert identities[0] != identities[1]


def test_params_for_the_tracker_are_the_whole_recipe():
    flat = recipes.flatten(load("sinusoid_maml").model_dump(mode="json"))
    assert flat["algorithm.inner_lr"] == "0.01"
    assert flat["net.hidden"] == "[40, 40]"
    assert flat["outer.model.optimizer"] == "adam"
    assert all(isinstance(value, str) for value in flat.values())


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["algorithm={name: protonet}"],
            ConfigError,
            "source.name: sinusoid gives values as training targets, protonet learns slots; choose another",
        ),
        (["net={name: conv4}"], ConfigError, "net.name: conv4 needs images .* use mlp"),
        (["normalisation=running"], ConfigError, "normalisation: 'running' makes MAML diverge"),
        (["algorithm={name: reptile}", "normalisation=running"], ConfigError, "'running' makes Reptile diverge"),
        (["outer.modle.lr=0.1"], ConfigError, "outer.modle: maml has no such group, it has model"),
        (["outer={}"], ConfigError, "outer: no optimizer for the group model; add outer.model"),
        (["task.train.ways=5"], ConfigError, "task.train.ways: 5, but a task of this source has no classes"),
        (["source.phase=[2, 1]"], ConfigError, "source.phase: .* is empty"),
        (
            ["source={name: images, path: gone.arrow}"],
            DataError,
            "source.path: gone.arrow does not exist; make it with",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_starts(here, overrides, error, message):
    with pytest.raises(error, match=message) as raised:
        dry_run(load("sinusoid_maml", overrides))
    assert "\n" not in str(raised.value)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("algorithm", "labels", "message"),
    [
        ("baseline", "slots", "gives slots as training targets, baseline learns classes; use source.labels=classes"),
        ("protonet", "classes", "gives classes as training targets, protonet learns slots; use source.labels=slots"),
    ],
)
def test_labels_of_another_kind_than_a_method_trains_on_are_refused(small_images, algorithm, labels, message):
    given = tiny.recipe(algorithm, small_images, source={"name": "images", "path": str(small_images), "labels": labels})
    with pytest.raises(ConfigError, match=message):
        dry_run(given)


def test_a_head_for_all_classes_is_no_limit_to_the_ways_of_a_task(small_images):
    shapes = {"train": {"ways": 2, "shots": 1, "queries": 1}, "eval": {"ways": 5, "shots": 1, "queries": 1}}
    components = dry_run(tiny.recipe("baseline", small_images, task=shapes))
    assert components.layout.unpack(components.theta)["model"]["head/weight"].shape[0] == 12


def test_where_nothing_is_stepped_no_optimizer_is_asked_for_and_the_default_one_may_stand():
    for outer in ("outer={}", "outer={model: {lr: 0.1}}"):
        recipe = load("sinusoid_maml", ["algorithm={name: finetune}", outer])
        components = dry_run(recipe)
        assert outer_of(recipe, components.layout, components.algorithm) == {}
    with pytest.raises(ConfigError, match="outer.modle: finetune has no such group, it has none"):
        dry_run(load("sinusoid_maml", ["algorithm={name: finetune}", "outer={modle: {lr: 0.1}}"]))


def test_a_group_the_recipe_does_not_name_is_stepped_like_the_model():
    recipe = load("sinusoid_maml", ["outer.model.lr=0.5"])
    components = build_components(recipe)
    assert outer_of(recipe, components.layout, components.algorithm)["model"].lr == 0.5


def test_shapes_come_out_as_the_source_takes_them():
    recipe = load("omniglot_maml_5w1s")
    shapes = recipe.shapes()
    assert shapes.train == TaskShape(5, 1, 1)
    assert shapes.eval.ways == 5
    assert plain(recipe.source, SOURCES["images"].Config).train_rotations == "random"


def test_yaml_in_the_package_is_what_a_person_would_read():
    """Plain YAML too: other programs see the same recipe."""
    for name in recipes.names():
        text = (Path(recipes.__file__).parent / f"{name}.yaml").read_text("utf-8")
        own = yaml.safe_load(text)
        base = own.pop("base", None)
        assert base is None or base in recipes.names()
        assert text.startswith("#"), f"{name} opens with where it comes from"
