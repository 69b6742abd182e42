"""Metrics of one's own: a source judges answers on the host, and every choice and table follows the metric's direction.

Theta is one number, which an outer step moves by exactly one. So it is known what each validation finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from pipeline import config, register
from pipeline.build import BuildWorker, build_components, build_worker, plan_of
from pipeline.comparison.compare import _curve
from pipeline.comparison.leaderboard import table
from pipeline.core.algorithm import Differentiable
from pipeline.core.failures import ConfigError
from pipeline.core.losses import LOSSES, TaskLoss, mean_squared_error
from pipeline.core.seeding import Ticket
from pipeline.core.source import Spec
from pipeline.core.types import About, Batch, Needs, Score, Task
from pipeline.engine import loop
from pipeline.engine.durability.checkpoint import read_checkpoint
from pipeline.engine.durability.coordinator import BEST
from pipeline.engine.interfaces import Chunk
from pipeline.engine.serial import SerialExecutor
from pipeline.runs.dry_run import dry_run
from pipeline.runs.recorded import Result
from pipeline.runs.report import result_table
from pipeline.runs.run import RunOptions, evaluate_run
from pipeline.storage.local import Local
from tests import quiet_runs

pytestmark = pytest.mark.usefixtures("torch_threads")

HEIGHTS = [30, 10, 40, 20, 90, 50, 60]
"""What is judged at theta = 0, 1, 2, …: the highest is at 4, the lowest at 1, and neither is the last."""


@dataclass(frozen=True)
class NoConfig:
    """Has no fields."""


class Walker(Differentiable):
    """Descends minus theta, whose gradient is -1: with plain descent at a rate of 1 theta counts the steps."""

    Config: ClassVar[type[Any]] = NoConfig
    needs = Needs((Batch,), ("values",), True)
    about = About("optimisation", "of this test")

    def init(self, rng):
        return {"model": {"w": torch.zeros(1, dtype=torch.float64)}}

    def adapt(self, theta, support, context):
        return theta["model"]["w"]

    def trace(self, theta, support, context):
        """Before adaptation theta is as if it were one less."""
        return theta["model"]["w"] - 1, theta["model"]["w"]

    def predict(self, adapted, x):
        return adapted.expand(len(x), 1)

    def score(self, adapted, query, context):
        return self.loss(self.predict(adapted, query.x), query.y)


class Heights:
    """Tasks without content. The answers are places in a Python list, which no tensor operation looks up."""

    Config: ClassVar[type[Any]] = NoConfig
    splits = ("train", "val", "test")
    fingerprint = "heights"
    loss = "test_higher"

    def __init__(self, config, shapes):
        self.shapes = shapes

    def spec(self):
        return Spec(Batch, (1,), 1, "values", self.loss)

    def sample(self, ticket):
        examples = Batch(torch.zeros(2, 1), torch.full((2, 1), float(ticket.number)))
        return Task(ticket.id, examples, examples)

    def judge(self, answers, query):
        assert query.y.device.type == answers["place"].device.type == "cpu"
        assert set(answers) == {"place"}
        assert answers["place"].shape == (2, 1)
        place = round(float(answers["place"][0, 0]))
        number = int(query.y[0, 0])
        return {"height": HEIGHTS[place] + number % 2, "name": float(len(f"{place:b}"))}


class LowHeights(Heights):
    loss = "test_lower"


class Unjudged(Heights):
    judge = None
    loss = "test_missing"


def upwards(outputs, y):
    return Score(-outputs.mean(), {"distance": (outputs - y).mean().detach()}, answers={"place": outputs.detach()})


PARTS = {
    "test_walker": Walker,
    "test_heights": Heights,
    "test_low_heights": LowHeights,
    "test_unjudged": Unjudged,
    "test_higher": TaskLoss(upwards, "height", higher_is_better=True, unit="m"),
    "test_lower": TaskLoss(upwards, "height_below", higher_is_better=False, unit="m"),
    "test_missing": TaskLoss(upwards, "depth", higher_is_better=False),
}


@pytest.fixture(autouse=True)
def registered():
    for name, part in PARTS.items():
        register(name, part)


def recipe(source="test_heights", **changes):
    shape = {"shots": 2, "queries": 2}
    data = {
        "name": "judged",
        "steps": 6,
        "tasks_per_step": 2,
        "chunk_size": 2,
        "algorithm": {"name": "test_walker"},
        "net": {"name": "mlp", "hidden": [2]},
        "source": {"name": source},
        "normalisation": "none",
        "task": {"train": shape, "eval": shape},
        "outer": {"model": {"optimizer": "sgd", "lr": 1.0}},
        "numerics": {"dtype": "float64"},
        "evaluation": {"tasks": 4, "validate_every": 1, "validation_tasks": 4},
    }
    return config.validate(data | changes, "judged")


def scores(theta, **changes):
    """What a worker measures of two tasks at a theta."""
    of = recipe(**changes)
    worker = build_worker(of, build_components(of))
    tickets = tuple(Ticket(0, "evaluate", "test", 0, number) for number in range(2))
    return worker.score(np.array([float(theta)]), Chunk(0, 0, tickets))


@pytest.mark.parametrize("vectorise", [True, False], ids=["vectorised", "one by one"])
def test_each_task_and_point_is_judged_by_its_own_answers_and_query(vectorise):
    found = scores(3, numerics={"dtype": "float64", "vectorise": vectorise})
    assert found.points == (0, 1)
    assert set(found.metrics) == {"distance", "height", "name"}
    assert found.metrics["height"].tolist() == [[HEIGHTS[2], HEIGHTS[3]], [HEIGHTS[2] + 1, HEIGHTS[3] + 1]]
    assert found.metrics["name"].tolist() == [[2, 2], [2, 2]], "2 and 3 have two binary digits"
    assert found.metrics["distance"].tolist() == [[2, 3], [1, 2]]


def test_the_digest_covers_what_was_judged():
    """Of two workers with other numbers one is wrong, wherever the numbers come from."""
    assert scores(3).digest == scores(3).digest
    assert scores(3).digest != scores(2).digest


def trained(folder, **changes):
    of = recipe(**changes)
    onlooker = quiet_runs.Onlooker()
    text = of.model_dump_json()
    executor = SerialExecutor(BuildWorker(text)(), quiet_runs.BuildQuietCoordinator(text, str(folder))())
    loop.train(executor, plan_of(of, build_components(of)), onlooker)
    executor.close("FINISHED", {})
    return onlooker


def best(folder):
    kept = read_checkpoint(Local(folder), BEST)
    return kept.tensors["theta/model/w"].item()


def test_validation_keeps_the_theta_that_is_judged_highest(tmp_path):
    onlooker = trained(tmp_path)
    assert best(tmp_path) == 4
    assert [note for note in onlooker.notes if "best so far" in note] == [
        f"step {step}: validation height {HEIGHTS[step] + 0.5:.4f} ± 0.5658 (best so far)" for step in (1, 2, 4)
    ]


class Below(LowHeights):
    def judge(self, answers, query):
        return {"height_below": super().judge(answers, query)["height"]}


def test_validation_keeps_the_theta_that_is_judged_lowest_where_less_is_better(tmp_path):
    register("test_below", Below)
    onlooker = trained(tmp_path, source="test_below")
    assert best(tmp_path) == 1
    assert len([note for note in onlooker.notes if "best so far" in note]) == 1


@pytest.mark.parametrize(("higher", "step"), [(True, 4), (False, 1)])
def test_an_own_loss_without_a_judge_is_followed_too(tmp_path, higher, step):
    def looked_up(outputs, y):
        heights = torch.tensor(HEIGHTS, dtype=outputs.dtype)
        return Score(-outputs.mean(), {f"up_{higher}": heights[outputs.detach().round().long()].mean()})

    class Plain(Unjudged):
        loss = f"test_up_{higher}"

    register(f"test_up_{higher}", TaskLoss(looked_up, f"up_{higher}", higher_is_better=higher))
    register(f"test_plain_{higher}", Plain)
    trained(tmp_path, source=f"test_plain_{higher}")
    assert best(tmp_path) == step


def test_a_metric_that_nobody_gives_is_refused_before_training():
    with pytest.raises(ConfigError) as caught:
        dry_run(recipe("test_unjudged"))
    assert str(caught.value) == (
        "source.name: test_unjudged is judged by depth, the metric of its loss test_missing, but a score of "
        "test_walker has distance; let the loss or the source's judge give it"
    )


def test_the_result_table_has_what_was_judged_with_its_unit(tmp_path):
    trained(tmp_path)
    facts = evaluate_run(tmp_path, [], RunOptions("serial"))["evaluation"]
    assert (facts["metric"], facts["higher_is_better"], facts["unit"]) == ("height", True, "m")
    rows = {(row["theta"], row["point"]): row["mean"] for row in facts["rows"] if row["metric"] == "height"}
    assert rows == {("last", 0): 50.5, ("last", 1): 60.5, ("best", 0): 20.5, ("best", 1): 90.5}
    LOSSES.clear()  # the plug-in is not imported where the table is made
    shown = result_table(facts)
    assert "60.500 ± 0.566 m" in shown
    assert "90.500 ± 0.566 m" in shown
    assert "%" not in shown


def result(method, scores, metric="height", *, higher=True, unit="m", family="optimisation"):
    mean = float(np.mean(scores))
    rows = [{"theta": "last", "point": 1, "metric": metric, "mean": mean, "ci95": 0.5}]
    evaluation = {"hash": "a", "normalisation": "none", "rows": rows, "metric": metric, "unit": unit}
    run = {"steps": 1, "tasks_seen": 2, "train_s": 1.0, "tasks_per_s": 2.0, "parameters": 1, "scores": scores}
    return Result(
        "protocol", method, method, family, "", {**run, "evaluation": evaluation | {"higher_is_better": higher}}
    )


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("imported", [True, False], ids=["with the plug-in", "without"])
def test_a_comparison_ranks_by_the_recorded_direction(higher, imported):
    if not imported:
        for name in PARTS:
            LOSSES.pop(name, None)
    metric = "height" if higher else "height_below"
    scores = {"low": [9.0, 11.0], "middle": [19.0, 21.0], "high": [89.0, 91.0]}
    found = [
        result(name, values, metric, higher=higher, family="optimisation" if name == "middle" else "baseline")
        for name, values in scores.items()
    ]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table(found, [f"{metric}@1"]).splitlines()
    ]
    ranked = ["high", "middle", "low"]
    assert [row[0] for row in rows] == (ranked if higher else ranked[::-1])
    assert head[2] == ("less high" if higher else "less low"), "the best baseline"
    assert [row[1] for row in rows][1] == "20.000 ± 0.500 m"
    assert rows[1][2] == ("−70.000 ± 0.000 m" if higher else "+10.000 ± 0.000 m")


def test_a_column_whose_direction_nobody_knows_is_refused():
    LOSSES.clear()
    found = [result("one", [1.0, 2.0])]
    with pytest.raises(ConfigError, match="columns: 'name': it is not known whether more is better"):
        table(found, ["name"])
    assert "| 1.500 ± 0.500 m |  |" in table(found, ["height", "name"])


def test_a_judged_metric_has_no_training_curve(tmp_path):
    """Training is not judged on the host. A curve of what is no number would be no JSON."""
    trained(tmp_path)
    assert _curve(str(tmp_path), "height") == []
    assert [step for step, _ in _curve(str(tmp_path), "distance")][-1] == 6


def test_two_losses_must_agree_on_what_a_metric_says():
    """Pages find a metric's direction and unit by its name."""
    register("test_same", TaskLoss(mean_squared_error, "mse", higher_is_better=False))
    for changes in ({"higher_is_better": True}, {"higher_is_better": False, "unit": "m"}):
        with pytest.raises(ConfigError) as caught:
            register("test_other", TaskLoss(mean_squared_error, "mse", **changes))
        assert str(caught.value) == (
            "register 'test_other': the loss mean_squared_error has the metric mse with another direction or unit; "
            "name this metric otherwise"
        )
    assert "test_other" not in LOSSES
