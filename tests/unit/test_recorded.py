"""Recorded results: what is saved is what is read, and a report finds the baselines of its own tasks and no others."""

from __future__ import annotations

import pytest

from pipeline.core.failures import DataError
from pipeline.runs.recorded import Result, baselines, load
from pipeline.runs.report import final_table
from tests.unit.test_report import evaluation, row

HERE, ELSEWHERE = "aaaa111122223333", "bbbb111122223333"
RUN = {
    "steps": 1,
    "tasks_seen": 4,
    "train_s": 1.0,
    "tasks_per_s": 4.0,
    "parameters": 2,
    "executor": "serial",
    "workers": 1,
    "device": "cpu",
    "cpu": "a small CPU",
    "date": "2026-01-02T03:04:05+00:00",
}


def result(method, family="baseline", hash_=HERE, points=((0, 0.5),), **changes):
    rows = [row(point, mean, 0.01) for point, mean in points]
    facts = RUN | {
        "recipe": method,
        "scores": [points[-1][1]] * 2,
        "evaluation": evaluation(rows, hash=hash_, **changes),
    }
    return Result("protocol", method, method.removeprefix("sinusoid_"), family, "", facts)


@pytest.fixture
def results(tmp_path):
    for one in (
        result("nearest", normalisation="none"),
        result("tuned", points=((0, 0.2), (1, 0.4), (5, 0.7))),
        result("maml", "optimisation"),
    ):
        one.save(tmp_path / "results" / "some_protocol")
    result("elsewhere", hash_=ELSEWHERE).save(tmp_path / "results" / "other_protocol")
    return tmp_path / "results"


def test_what_is_saved_is_what_is_read(tmp_path):
    one = result("nearest")
    other = Result("protocol", "maml", "maml", "optimisation", "98.7 ± 0.4", one.summary)
    path = one.save(tmp_path)
    other.save(tmp_path)
    assert path == tmp_path / "nearest.json"
    assert load(tmp_path) == [other, one]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["maml.json", "nearest.json"]


def test_baselines_are_those_of_the_same_tasks_alone(results):
    assert [one.method for one in baselines(HERE, results)] == ["nearest", "tuned"]
    assert [one.method for one in baselines(ELSEWHERE, results)] == ["elsewhere"]
    assert baselines("cccc", results) == []


def test_the_table_has_the_baselines_beside_the_run(results):
    text = final_table(evaluation([row(0, 0.2, 0.01), row(1, 0.9, 0.01)], hash=HERE), results)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[1] == "method inner steps accuracy"
    assert rows[3:] == [
        "this run before adaptation 20.00% ± 1.00%",
        "this run 1 90.00% ± 1.00%",
        "nearest (none) adapted 50.00% ± 1.00%",
        "tuned (transductive) 5 70.00% ± 1.00%",
    ]


def test_without_baselines_one_line_says_so_and_names_the_command(results, tmp_path):
    for folder, why in (
        (results, "none is recorded for evaluation cccc"),
        (tmp_path / "no", "there is no folder"),
    ):
        *table, said = final_table(evaluation([row(0, 0.2, 0.01)], hash="cccc"), folder).splitlines()
        assert len(table) == 4
        assert said.startswith("no baselines: ")
        assert why in said
        assert "python -m jobs.compare" in said


BROKEN = [
    "",
    "[]",
    "{}",
    '{"method": "x"}',
    "not json",
    '{"method": 1, "family": "baseline", "published": "", "evaluation": {"hash": "a", "rows": []}}',
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_result_is_named_and_costs_no_run_its_table(text, results):
    (results / "some_protocol" / "broken.json").write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"broken\.json: not a recorded result .* jobs\.compare"):
        baselines(HERE, results)
    shown = final_table(evaluation([row(0, 0.2, 0.01)], hash=HERE), results)
    assert "20.00%" in shown
    assert "broken.json" in shown.splitlines()[-1]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        result("nearest").save(tmp_path / "file")
