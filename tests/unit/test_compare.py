"""A comparison: one budget, the same tasks, a method at a time, and nothing done twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from pipeline import config, recipes
from pipeline.comparison.compare import _place, compare, identity, recipes_of
from pipeline.comparison.leaderboard import shown, table, table_of_tasks
from pipeline.comparison.protocol import read
from pipeline.core.failures import ConfigError
from pipeline.engine.statistics import interval
from pipeline.runs.recorded import Result, load
from pipeline.runs.run import RunOptions
from tests.quiet_runs import Onlooker

PROTOCOL = {
    "about": "Two methods on sinusoids",
    "tasks": 20,
    "change": ["tasks_per_step=4", "chunk_size=2", "evaluation.tasks=6", "net.hidden=[8]"],
    "columns": ["mse", "mse@1"],
    "methods": {
        "maml": {"recipe": "sinusoid_maml", "change": ["algorithm.eval_inner_steps=2"], "published": "0.35"},
        "fomaml": {"recipe": "sinusoid_maml", "change": ["algorithm.first_order=true"]},
        "untrained": {"recipe": "sinusoid_maml", "steps": 1},
    },
}


@pytest.fixture
def protocol(tmp_path):
    def write(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(PROTOCOL | changes, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def compared(tmp_path, mlflow_uri, protocol):
    """``compare`` of the small protocol, with what it said."""

    def go(only=(), trial_s=15.0, overrides=(), **changes):
        onlooker, options = Onlooker(), RunOptions("serial", output=tmp_path / "runs")
        given = [f"tracking.uri={mlflow_uri}", "tracking.report=false", *overrides]
        found = compare(protocol(**changes), only, given, options, tmp_path / "kept", onlooker, trial_s)
        return {one.method: one for one in found}, onlooker

    return go


def test_every_method_has_the_same_budget_and_is_judged_on_the_same_tasks(compared, tmp_path):
    found, _ = compared()
    assert {name: one.summary["steps"] for name, one in found.items()} == {"maml": 5, "fomaml": 5, "untrained": 1}
    assert len({one.evaluation["hash"] for one in found.values()}) == 1
    for one in found.values():
        last = [row for row in one.evaluation["rows"] if row["metric"] == "mse"][-1]
        assert interval(np.array(one.summary["scores"])) == pytest.approx((last["mean"], last["ci95"]), abs=1e-5)
        assert [step for step, _ in one.summary["curve"]][-1] == one.summary["steps"]
    assert (found["maml"].published, found["maml"].family) == ("0.35", "optimisation")
    assert {one.name for one in (tmp_path / "kept").iterdir()} == {"maml.json", "fomaml.json", "untrained.json"}


def test_what_is_done_is_not_done_again_unless_the_question_changed(compared):
    first, _ = compared(only=["maml"])
    again, onlooker = compared()
    assert again["maml"].summary["date"] == first["maml"].summary["date"]
    assert any("maml: done before" in note for note in onlooker.notes)
    assert set(again) == set(PROTOCOL["methods"])
    other, _ = compared(only=["maml"], overrides=["algorithm.inner_lr=0.5"])
    assert other["maml"].summary["theta_sha256"] != first["maml"].summary["theta_sha256"]


def test_a_method_whose_own_steps_changed_is_done_again(compared):
    compared(only=["untrained"])
    longer, _ = compared(only=["untrained"], methods={"untrained": {"recipe": "sinusoid_maml", "steps": 2}})
    assert longer["untrained"].summary["steps"] == 2
    budget, _ = compared(only=["untrained"], methods={"untrained": {"recipe": "sinusoid_maml"}})
    assert budget["untrained"].summary["steps"] == 5


def test_tasks_that_have_names_are_shown_one_by_one(compared):
    found, _ = compared()
    rows = list(found.values())
    assert table_of_tasks(rows, "mse") == ""
    found["maml"].evaluation["names"] = ["ben"]
    assert table_of_tasks(rows, "mse") == ""
    found["maml"].evaluation["names"] = ["ben", "bur", "ger", "gle", "ita", "per"]
    head, _, *lines = table_of_tasks(rows, "mse").splitlines()
    ranked = sorted(rows, key=lambda one: np.mean(one.summary["scores"]))
    assert head == f"| task | {' | '.join(one.method for one in ranked)} |"
    assert lines[2] == f"| ger | {' | '.join(format(one.summary['scores'][2], '.3f') for one in ranked)} |"
    assert len(lines) == 6


def test_one_task_alone_has_no_interval():
    assert shown(0.5, interval([0.5])[1], "share") == "50.00"
    assert shown(0.5, 0.25, "nats") == "0.500 ± 0.250 nats"


def test_a_stopped_method_goes_on_where_it_was(compared, tmp_path, mlflow_uri, protocol):
    class Stop(Onlooker):
        def step(self, step, loss, metrics, tasks_per_s):
            super().step(step, loss, metrics, tasks_per_s)
            if step == 3:
                raise KeyboardInterrupt

    whole, _ = compared(only=["maml"])
    options, given = (
        RunOptions("serial", output=tmp_path / "other"),
        [f"tracking.uri={mlflow_uri}", "tracking.report=false"],
    )
    with pytest.raises(KeyboardInterrupt):
        compare(protocol(), ["maml"], given, options, tmp_path / "later", Stop())
    assert load(tmp_path / "later") == []
    onlooker = Onlooker()
    (resumed,) = compare(protocol(), ["maml"], given, options, tmp_path / "later", onlooker)
    assert onlooker.done > 0
    assert resumed.summary["theta_sha256"] == whole["maml"].summary["theta_sha256"]
    assert resumed.summary["scores"] == whole["maml"].summary["scores"]


def test_runs_are_children_of_one_mlflow_run_that_shows_the_table(compared, mlflow_uri):
    compared(only=["maml"])
    compared()
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("metafleet").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.info.run_name for run in children} == set(PROTOCOL["methods"])
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.tags["mlflow.note.content"].startswith("Two methods on sinusoids\n\n| method | mse | mse@1 |")


RATES = {"setting": "algorithm.inner_lr", "values": [0.5, 0.01]}


def untrained(**changes):
    return {"recipe": "sinusoid_finetune", "change": ["algorithm.inner_steps=3"], "steps": 1} | changes


def test_a_setting_is_chosen_on_validation_tasks(compared):
    """And not on those of the test, where another value may be better."""
    found, _ = compared(methods={"tuned": untrained(choose=RATES)})
    summary = found["tuned"].summary
    measured, best = dict(summary["chosen"]["validation"]), summary["chosen"]["value"]
    assert summary["evaluation"]["split"] == "test"
    assert list(measured) == RATES["values"]
    assert measured[best] == min(measured.values())
    single, _ = compared(
        methods={"single": untrained(change=["algorithm.inner_steps=3", f"algorithm.inner_lr={best}"])}
    )
    assert single["single"].summary["scores"] == summary["scores"]
    assert np.mean(summary["scores"]) != pytest.approx(measured[best])


@pytest.mark.parametrize("setting", ["algorithm.first_order", "algorithm.inner_lrr", "steps", "evaluation.seed"])
def test_what_decides_theta_or_the_tasks_cannot_be_chosen(protocol, setting):
    methods = {"one": {"recipe": "sinusoid_maml", "choose": {"setting": setting, "values": [0.0, 1.0]}}}
    with pytest.raises(ConfigError, match=rf"methods.one.choose.setting: {setting} is no setting of an evaluation"):
        recipes_of("small", read(protocol(methods=methods)), [], [])


def test_whole_numbers_can_be_chosen(protocol):
    choose = {"setting": "algorithm.eval_inner_steps", "values": [5, 10]}
    found = read(protocol(methods={"one": {"recipe": "sinusoid_maml", "choose": choose}}))
    assert [type(value) for value in found.methods["one"].choose.values] == [int, int]


@pytest.mark.parametrize(
    ("change", "another"),
    [
        ("source.eval_queries=support", True),
        ("source.eval_rotations=random", True),
        ("algorithm.temperature=2.0", True),
        ("source.path=elsewhere.arrow", False),
        ("workers.count=7", False),
    ],
)
def test_a_result_of_other_evaluation_tasks_is_another(protocol, change, another):
    asked, small = read(protocol()), config.load("omniglot_protonet_5w1s")
    changed = config.load("omniglot_protonet_5w1s", [change])
    assert (identity(asked, changed) != identity(asked, small)) == another


def test_a_run_is_shared_where_theta_is_the_same_and_nowhere_else(tmp_path):
    """Other data are another theta. Validation keeps a best theta by settings of its own."""

    def place(*changes, question="q"):
        return _place(tmp_path / "p", question, config.load("omniglot_protonet_5w1s", list(changes)), 5)

    assert place(question="a") == place("source.eval_rotations=random", question="b")
    assert place() != place("source.path=elsewhere.arrow")
    validated = "evaluation.validate_every=2"
    assert place(validated, question="a") != place(validated, question="b")


def test_methods_with_one_theta_share_a_run(compared, tmp_path):
    """One is trained; another one is evaluated otherwise, as if it had been trained again."""
    shared = {"recipe": "sinusoid_maml"}
    found, _ = compared(methods={"one": shared, "two": shared | {"change": ["algorithm.eval_inner_steps=2"]}})
    assert len(list((tmp_path / "runs").glob("maml-*"))) == 1
    assert {one.summary["theta_sha256"] for one in found.values()} == {found["one"].summary["theta_sha256"]}
    assert found["two"].summary["recipe"] == "two"
    assert [row["point"] for row in found["two"].evaluation["rows"]][-1] == 2
    alone, _ = compared(methods={"three": PROTOCOL["methods"]["maml"]}, overrides=["seed=2"])
    assert len(list((tmp_path / "runs").glob("maml-*"))) == 2
    assert alone["three"].summary["theta_sha256"] != found["one"].summary["theta_sha256"]


def test_a_budget_of_seconds_becomes_steps(compared):
    found, _ = compared(only=["fomaml", "untrained"], trial_s=0.2, tasks=None, seconds=0.5)
    steps, seconds = (found["fomaml"].summary[key] for key in ("steps", "train_s"))
    assert steps > 1
    assert seconds < 30
    assert found["untrained"].summary["steps"] == 1


def test_a_column_that_is_not_measured_is_named(compared):
    for column in ("accuracy", "mse@7"):
        with pytest.raises(
            ConfigError, match=rf"columns: '{column}' is not measured of maml; it has mse, after 0, 1, 2 "
        ):
            compared(only=["maml"], columns=[column])


def result(method, family, scores, **evaluation):
    rows = [{"theta": "last", "point": 3, "metric": "accuracy", "mean": float(np.mean(scores)), "ci95": 0.01}]
    facts = {"hash": "a", "normalisation": "none", "rows": rows} | evaluation
    run = {"steps": 1000, "tasks_seen": 32000, "train_s": 299.6, "tasks_per_s": 106.8, "parameters": 112000}
    return Result("protocol", method, method, family, "", {**run, "scores": scores, "evaluation": facts})


def test_the_table_ranks_and_pairs_with_the_best_baseline():
    found = [
        result("nearest", "baseline", [0.2, 0.4]),
        result("pretrained", "baseline", [0.6, 0.8]),
        result("maml", "optimisation", [0.8, 0.9]),
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(found, ["accuracy"]).splitlines()]
    assert [row[0] for row in rows[2:]] == ["maml", "pretrained", "nearest"]
    assert [row[2] for row in rows[2:]] == ["+15.00 ± 9.80", "", "−40.00 ± 0.00"]
    assert rows[2][3:] == ["none", "1,000", "32,000", "300 s", "106.8", "112,000", "–"]
    with pytest.raises(ConfigError, match="nearest and maml were evaluated on different tasks"):
        table([found[0], result("maml", "optimisation", [0.8, 0.9], hash="b")], ["accuracy"])


def test_the_table_pairs_with_the_methods_that_are_named():
    found = [result("maml", "optimisation", [0.8, 0.9]), result("nearest", "baseline", [0.2, 0.5])]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(found, ["accuracy"], ["maml", "reptile", "nearest"]).splitlines()
    ]
    assert head[2:4] == ["less maml", "less nearest"], "one of them may not be done yet"
    assert [row[2:4] for row in rows] == [["", "+50.00 ± 19.60"], ["−50.00 ± 19.60", ""]]
    assert "less" not in table(found, ["accuracy"], ["reptile"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 3.0}, "expected a budget of seconds or one of tasks, and not both"),
        ({"tasks": None}, "expected a budget of seconds or one of tasks, and not both"),
        ({"tasks": "many"}, "tasks: expected a whole number, found 'many'"),
        ({"minutes": 3}, "minutes: expected no key of that name, found 3"),
        ({"methods": {}}, r"methods: expected at least 1 items, found \{\}"),
        ({"against": ["maml", "mamll"]}, "against: no method 'mamll'; it has maml, fomaml, untrained"),
    ],
)
def test_a_wrong_protocol_is_one_line(protocol, changes, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(protocol(**changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", recipes.protocol_names())
def test_every_packaged_protocol_holds_together(name, small_images):
    protocol = read(name)
    found = recipes_of(name, protocol, (), [])
    assert set(found) == set(protocol.methods)
    shapes = {json.dumps(recipe.model_dump(mode="json")["task"]["eval"]) for recipe in found.values()}
    evaluations = {json.dumps(recipe.model_dump(mode="json")["evaluation"]) for recipe in found.values()}
    # How the labels of training tasks are counted, how their images are turned, which classes they remember and whether
    # answers are densities is a method's own affair.
    own = {"labels": "", "train_rotations": "", "remember": "", "density": ""}
    sources = {json.dumps(recipe.model_dump(mode="json")["source"] | own) for recipe in found.values()}
    assert (len(shapes), len(evaluations), len(sources)) == (1, 1, 1)


def test_no_such_method_or_protocol(protocol):
    with pytest.raises(ConfigError, match="--only maaml: the protocol small has maml, fomaml, untrained"):
        recipes_of("small", read(protocol()), ["maaml"], [])
    with pytest.raises(ConfigError, match="protocol 'nothing': packaged are .*omniglot_5w1s"):
        read("nothing")


def test_what_decides_an_evaluation_alone_belongs_to_a_row_s_identity():
    """A row that was measured with another search, or with nothing left out, is another row."""
    protocol = read("ciphers")
    first = next(iter(protocol.methods))
    rows = {
        change: identity(protocol, recipes_of("ciphers", protocol, [first], [change])[first])
        for change in ("net.beam=1", "net.eval_dropout=0", "net.beam=4", "net.eval_dropout=0.2", "checkpoint.keep=9")
    }
    assert rows["net.beam=1"] == rows["net.eval_dropout=0"] == rows["checkpoint.keep=9"]
    assert len(set(rows.values())) == 3
