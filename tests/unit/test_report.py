"""What a person sees: progress on a terminal and in a log, the result table, where everything lies."""

from __future__ import annotations

import io
import math

import pytest

from pipeline.runs.report import Progress, key_values, result_table


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def evaluation(rows, **changes):
    facts = {
        "split": "test",
        "tasks": 600,
        "hash": "3fa9c1aa55ff00112233",
        "normalisation": "transductive",
        "ways": 5,
        "shots": 1,
        "queries": 15,
        "settings": {"rotations": "classes"},
        "metric": "accuracy",
        "higher_is_better": True,
        "unit": "share",
    }
    return {**facts, **changes, "rows": rows}


def row(point, mean, ci95, metric="accuracy", theta="last"):
    return {"theta": theta, "point": point, "metric": metric, "mean": mean, "ci95": ci95}


def run(progress, clock, steps, done=0, seconds=1.0):
    progress.start(steps, done)
    for step in range(done + 1, steps + 1):
        clock.seconds += seconds
        progress.step(step, 1 / step, {"accuracy": 0.5, "hidden": 1.0}, 1234.4)


def test_one_task_alone_is_shown_without_an_interval():
    shown = result_table(evaluation([row(0, 0.25, math.nan)], tasks=1))
    assert "25.00%" in shown
    assert "nan" not in shown


def test_a_log_gets_the_first_step_the_last_and_one_line_in_five_seconds():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    run(progress, clock, steps=12)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "step  1/12  loss 1.0000  accuracy 50.00%  1,234 tasks/s  0:00:11 left",
        "step  6/12  loss 0.1667  accuracy 50.00%  1,234 tasks/s  0:00:06 left",
        "step 11/12  loss 0.0909  accuracy 50.00%  1,234 tasks/s  0:00:01 left",
        "step 12/12  loss 0.0833  accuracy 50.00%  1,234 tasks/s",
    ]


def test_the_time_left_of_a_resumed_run_counts_its_own_steps_only():
    stream, clock = io.StringIO(), Clock()
    run(Progress(stream, clock), clock, steps=1000, done=990, seconds=2.0)
    assert stream.getvalue().splitlines()[0].endswith("0:00:18 left")


def test_an_interrupted_run_leaves_the_step_it_reached():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock)
    progress.start(100, 0)
    for step in (1, 2, 3):
        progress.step(step, 0.5, {}, 3.25)
    progress.close()
    progress.close()
    assert stream.getvalue().splitlines()[-1] == "step   3/100  loss 0.5000  3.2 tasks/s  0:00:00 left"
    assert len(stream.getvalue().splitlines()) == 2


def test_close_before_the_first_step_prints_nothing():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start(10, 0)
    progress.close()
    assert stream.getvalue() == ""


def test_a_heading_waits_until_there_is_something_to_train():
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, clock, heading="steps: 1")
    assert stream.getvalue() == ""
    run(progress, clock, steps=1)
    assert stream.getvalue().splitlines()[0] == "steps: 1"


def test_a_note_is_a_line_of_its_own_as_it_was_written():
    stream = io.StringIO()
    Progress(stream).note("val [bold] accuracy :smile: " + "x" * 200)
    assert stream.getvalue() == "val [bold] accuracy :smile: " + "x" * 200 + "\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, clock)
    run(progress, clock, steps=20, done=10)
    progress.note("evaluated [val]")
    progress.close()
    shown = stream.getvalue()
    assert "20/20" in shown
    assert "loss 0.0500  accuracy 50.00%  1,234 tasks/s" in shown
    assert "evaluated [val]" in shown
    assert "left" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
    assert "step 20/20  loss" not in shown  # no plain lines beside the bar


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream, clock = Terminal(), Clock()
    run(Progress(stream, clock), clock, steps=2)
    assert "\x1b" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 2


def test_the_table_shows_percent_and_names_the_evaluation():
    text = result_table(evaluation([row(0, 0.2, 0.001), row(1, 0.91234, 0.0049), row(3, 0.95, 0.00456)]))
    title, header, _, before, one, three = text.splitlines()
    assert title == (
        "test split, 600 tasks: 5-way 1-shot, 15 queries per class, rotations classes, normalisation transductive,"
        " evaluation 3fa9c1aa55ff"
    )
    assert header.split() == ["inner", "steps", "accuracy"]
    assert before.split("  ")[0] == "before adaptation"
    assert before.endswith("20.00% ± 0.10%")
    assert one.split() == ["1", "91.23%", "±", "0.49%"]
    assert three.split() == ["3", "95.00%", "±", "0.46%"]


def test_a_regression_has_no_ways_and_three_decimals():
    rows = [row(0, 3.00612, 0.1, "mse"), row(10, 0.3456, 0.0123, "mse")]
    judged = {"metric": "mse", "higher_is_better": False, "unit": ""}
    text = result_table(evaluation(rows, ways=1, shots=10, queries=1, settings={}, normalisation="none", **judged))
    assert text.startswith("test split, 600 tasks: 10-shot, 1 query, normalisation none,")
    assert "3.006 ± 0.100" in text
    assert "0.346 ± 0.012" in text
    assert "way" not in text


def test_an_evaluation_of_before_settings_shows_its_rotations_and_percent():
    facts = evaluation([row(0, 0.5, 0.01)], rotations="none")
    older = {key: facts[key] for key in facts if key not in ("settings", "metric", "higher_is_better", "unit")}
    assert "15 queries per class, rotations none, normalisation transductive," in result_table(older)
    assert "50.00% ± 1.00%" in result_table(older)


def test_the_unit_of_a_metric_that_no_loss_here_has_is_the_evaluation_s():
    rows = [row(0, 0.25, 0.01, "bleu")]
    assert "25.00% ± 1.00%" in result_table(evaluation(rows, metric="bleu"))
    assert "0.250 ± 0.010" in result_table(evaluation(rows, metric="bleu", unit=""))


def test_a_method_without_inner_steps_has_no_before_row():
    last = result_table(evaluation([row(0, 0.975, 0.001)])).splitlines()[-1]
    assert last.split() == ["adapted", "97.50%", "±", "0.10%"]


def test_two_thetas_and_two_metrics_share_one_table():
    rows = [
        row(point, 0.5 + point / 10, 0.01, metric, theta)
        for theta in ("last", "best")
        for point in (0, 1)
        for metric in ("accuracy", "ece")
    ]
    lines = result_table(evaluation(rows)).splitlines()
    assert lines[1].split() == ["theta", "inner", "steps", "accuracy", "ece"]
    assert [line.split("  ")[0] for line in lines[3:]] == ["last", "last", "best on validation", "best on validation"]
    assert lines[-1].endswith("60.00% ± 1.00%   0.600 ± 0.010")


@pytest.mark.parametrize("value", ["/a/" + "long/" * 60, "mlflow ui --backend-store-uri 'sqlite:////a b/[x].db'"])
def test_values_are_neither_cut_nor_changed(value):
    assert key_values({"run": "x", "checkpoint": value}).splitlines() == ["run         x", f"checkpoint  {value}"]


def test_no_values_are_no_text():
    assert key_values({}) == ""
