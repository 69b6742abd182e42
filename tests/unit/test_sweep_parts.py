"""A sweep's parts that train nothing: the space, the searches, the median rule, the table and the picture."""

from __future__ import annotations

import csv
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.core.failures import ConfigError, DataError
from pipeline.storage.local import Local
from pipeline.sweeps.children import Child, Judge, as_csv, best_of, load, ranked, table
from pipeline.sweeps.early_stop import behind
from pipeline.sweeps.picture import picture
from pipeline.sweeps.search import by_tpe, planned
from pipeline.sweeps.space import Choices, Range, corners, drawn, grid, parse

MSE = Judge("mse", higher_is_better=False, unit="", tasks="a")
ACCURACY = Judge("accuracy", higher_is_better=True, unit="share", tasks="a")
RATE, STEPS = Range("lr", "log", 1e-4, 1e-1), Range("inner_steps", "int", 1, 5)


def child(number, score=None, state="finished", curve=(), reason="", **values):
    return Child(number, values or {"lr": "0.01"}, state, score, 0.1, 6, tuple(curve), 1.0, "", 5, reason)


@pytest.mark.parametrize(
    ("argument", "axis"),
    [
        ("lr=1e-3,1e-2", Choices("lr", ("1e-3", "1e-2"))),
        ("net.hidden=[40,40],[80,80]", Choices("net.hidden", ("[40,40]", "[80,80]"))),
        ("net={name: mlp, hidden: [4]},{name: mlp}", Choices("net", ("{name: mlp, hidden: [4]}", "{name: mlp}"))),
        ("a='x,y', z", Choices("a", ("'x,y'", "z"))),
        ("lr=log:1e-4:1e-1", RATE),
        ("inner_steps=int:1:5", STEPS),
        ("b=float:-1:1", Range("b", "float", -1.0, 1.0)),
    ],
)
def test_a_setting_with_several_values_is_varied(argument, axis):
    found = parse([argument, "steps=3", "net.widths=[1,2]", "uri=sqlite:///int.db"])
    assert found.axes == (axis,)
    assert found.fixed == ("steps=3", "net.widths=[1,2]", "uri=sqlite:///int.db"), "a list is one value"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=3"], "nothing is varied"),
        (["steps"], "'steps': expected key=value"),
        (["lr=1,2", "lr=3"], "lr: is given twice"),
        (["lr=1,,2"], "lr=1,,2: a value is empty"),
        (["lr=1,2,1"], "lr=1,2,1: 1 is listed twice"),
        (["lr=1,log:1:2"], "lr=1,log:1:2: a range stands alone"),
        (["lr=log:0:1"], "lr=log:0:1: expected log:LOW:HIGH with 0 < LOW < HIGH, for example log:1e-4:1e-1"),
        (["lr=log:1"], "lr=log:1: expected log:LOW:HIGH"),
        (["n=int:1:2.5"], "n=int:1:2.5: expected int:LOW:HIGH with whole numbers"),
        (["n=float:2:1"], "n=float:2:1: expected float:LOW:HIGH with LOW < HIGH"),
        (["n=float:0:inf"], "n=float:0:inf: expected"),
        (["evaluation.seed=1,2"], "evaluation.seed does not decide what a child learns"),
        (["task.eval.shots=1,5"], "task.eval.shots does not decide"),
        (["workers.count=1,2"], "workers.count does not decide"),
    ],
)
def test_what_is_no_space_is_one_line(arguments, message):
    with pytest.raises(ConfigError) as raised:
        parse(arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_grid_has_every_combination_once():
    found = grid(parse(["a=1,2", "b=x,y,z"]).axes)
    assert [tuple(one.values()) for one in found] == [(a, b) for a in "12" for b in "xyz"]


def test_random_values_are_in_their_ranges_and_do_not_depend_on_how_many_there_are():
    axes = (RATE, STEPS, Range("b", "float", -1.0, 1.0), Choices("c", ("x", "y")))
    many = drawn(axes, 400, seed=3)
    assert many[:5] == drawn(axes, 5, seed=3)
    assert many[:5] != drawn(axes, 5, seed=4)
    rates = np.array([float(one["lr"]) for one in many])
    assert 1e-4 <= rates.min() < 2e-4 < 0.05 < rates.max() <= 1e-1
    assert np.median(rates) == pytest.approx(10**-2.5, rel=0.4), "each factor alike"
    assert {one["inner_steps"] for one in many} == set("12345")
    assert {one["c"] for one in many} == {"x", "y"}
    assert all(-1 <= float(one["b"]) <= 1 for one in many)


def test_each_value_and_each_end_is_checked():
    found = list(corners((RATE, Choices("c", ("x", "y", "z")))))
    assert {one["lr"] for one in found} == {"0.0001", "0.1"}
    assert {one["c"] for one in found} == {"x", "y", "z"}


@pytest.mark.parametrize(
    ("kind", "argument", "samples", "seed", "message"),
    [
        ("grid", "a=1,2", 3, None, "--samples 3: has no effect on a grid"),
        ("grid", "a=1,2", None, 1, "--seed 1: has no effect on a grid"),
        ("grid", "a=int:1:2", None, None, "a=int:1:2: a grid takes lists of values"),
        ("random", "a=1,2", None, None, "--search random: pass --samples N"),
        ("optuna", "a=1,2", 1001, None, "1,001 children: expected 1 to 1,000"),
        ("random", "a=1,2", 0, None, "0 children: expected 1 to 1,000"),
    ],
)
def test_options_that_do_not_fit_the_search_are_named(kind, argument, samples, seed, message):
    with pytest.raises(ConfigError, match=message):
        planned(kind, parse([argument]).axes, samples, seed)


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"optuna is not installed; .*pip install -e '\.\[sweep\]'"):
        planned("optuna", (RATE,), 3, None)


def test_optuna_chooses_by_what_came_before_and_the_seed_alone():
    pytest.importorskip("optuna")
    axes = (RATE, STEPS, Choices("c", ("x", "y")))
    ended: list[Child] = []
    for number in range(1, 21):
        values = by_tpe(axes, 20, 1, MSE)(ended)
        assert values == by_tpe(axes, 20, 1, MSE)(ended), "a resumed sweep has another process"
        state = {7: "failed", 9: "stopped"}.get(number, "finished")
        score = None if state == "failed" else abs(np.log10(float(values["lr"])) + 2) + (values["c"] == "x")
        ended.append(child(number, score, state, [(2, 1.0)], **values))
    assert all(1e-4 <= float(one.values["lr"]) <= 1e-1 and one.values["inner_steps"] in "12345" for one in ended)
    early, late = ([abs(np.log10(float(one.values["lr"])) + 2) for one in part] for part in (ended[:6], ended[-6:]))
    assert np.mean(late) < np.mean(early), "it looks where the scores are good"
    assert by_tpe(axes, 20, 2, MSE)([]) != ended[0].values


def test_optuna_leaves_a_region_where_children_fail():
    pytest.importorskip("optuna")
    ended: list[Child] = []
    for number in range(1, 25):
        values = by_tpe((RATE,), 24, 1, MSE)(ended)
        good = float(values["lr"]) < 0.003
        ended.append(child(number, 1.0 if good else None, "finished" if good else "failed", **values))
    failed = [one.state == "failed" for one in ended]
    assert sum(failed[-8:]) < sum(failed[:8])


EARLIER = [child(number, curve=[(2, score), (4, 1.0)]) for number, score in enumerate([1.0, 2.0, 3.0, 4.0], 1)]


@pytest.mark.parametrize(
    ("step", "score", "earlier", "judge", "stops"),
    [
        (2, 2.6, EARLIER, MSE, True),
        (2, 2.4, EARLIER, MSE, False),
        (2, 2.4, EARLIER, ACCURACY, True),
        (2, 9.0, EARLIER[:3], MSE, False),  # too few
        (2, 9.0, [*EARLIER[:3], child(4)], MSE, False),  # one was never validated at this step
        (1, 9.0, EARLIER, MSE, False),
        (6, 9.0, [child(n, curve=[(6, 1.0)]) for n in range(1, 5)], MSE, False),  # it is at its end
        (2, float("nan"), EARLIER, MSE, False),  # it fails by itself
    ],
)
def test_a_child_behind_the_median_of_the_earlier_ones_is_stopped(step, score, earlier, judge, stops):
    reason = behind(step, 6, score, earlier, judge)
    assert bool(reason) == stops
    if stops:
        assert reason == f"{judge.metric} {score:.4g} at step 2, median of 4 earlier children 2.5"


MIXED = [
    child(1, 0.5, lr="1"),
    child(2, None, "failed", reason="NonFiniteError: a | b\nc", lr="2"),
    child(3, 0.1, "stopped", lr="3"),
    child(4, 0.7, lr="4"),
]


def test_the_best_finished_child_is_first_whatever_a_stopped_one_had():
    assert [one.number for one in ranked(MIXED, MSE)] == [1, 4, 3, 2]
    assert [one.number for one in ranked(MIXED, ACCURACY)] == [4, 1, 3, 2]
    assert best_of(MIXED, ACCURACY) is MIXED[3]
    assert best_of(MIXED[1:3], MSE) is None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(MIXED, ACCURACY).splitlines()]
    assert rows[0] == ["child", "lr", "validation accuracy", "steps", "state"]
    assert rows[2] == ["4", "4", "70.00 ± 10.00", "6", "finished"]
    assert rows[-1] == ["2", "2", "–", "6", "failed: NonFiniteError: a / b c"]
    assert list(csv.DictReader(io.StringIO(as_csv(MIXED, MSE))))[0]["mse"] == "0.5"


def test_a_record_is_read_as_it_was_written_and_a_damaged_one_is_named(tmp_path):
    storage = Local(tmp_path)
    wanted = [child(1, 0.5, curve=[(2, 0.7), (4, 0.6)]), child(2, None, "failed", reason="why")]
    for one in wanted:
        one.save(storage)
    assert load(storage) == wanted
    path = tmp_path / "children" / "0002.json"
    for text in ("{", "[]", json.dumps(json.loads(path.read_text()) | {"state": "odd"})):
        path.write_text(text)
        with pytest.raises(DataError, match=r"children/0002.json: is no record of a child"):
            load(storage)


def test_the_picture_has_a_panel_for_each_setting_and_one_for_the_curves():
    axes = (RATE, Choices("c", ("x", "y")), STEPS)
    some = [
        child(n, float(n), curve=[(2, n + 1.0), (4, n)], lr=f"0.0{n}", c="xy"[n % 2], inner_steps="2")
        for n in range(1, 6)
    ]
    whole = Image.open(io.BytesIO(picture(some, axes, MSE)))
    flat = Image.open(io.BytesIO(picture(some, axes[:1], MSE)))
    assert whole.format == "PNG"
    assert whole.height > 1.5 * flat.height, "four panels stand in two rows"
    assert np.asarray(whole.convert("L")).std() > 5
    assert picture([MIXED[1]], axes[:1], MSE), "nothing to show is a picture, too"
