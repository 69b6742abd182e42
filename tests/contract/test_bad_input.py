"""Bad input ends in one line with its code, without a traceback, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from pipeline import build
from pipeline.algorithms.gradientmemory import GradientMemoryMAML
from pipeline.algorithms.maml import MAML
from pipeline.algorithms.protonet import ProtoNet
from pipeline.algorithms.reptile import Reptile
from pipeline.config import Recipe, load, validate
from pipeline.core.algorithm import detach
from pipeline.core.failures import ConfigError, TaskError
from pipeline.core.types import Score
from pipeline.runs.dry_run import dry_run
from tests import quiet_runs
from tests.contract.bad_input import ELSEWHERE, ROWS, Place, Row, run
from tests.runtime import tiny

pytestmark = pytest.mark.usefixtures("torch_threads")


def files(*folders: Path) -> dict[Path, int]:
    """All there is, and when it was written. Who holds a lock is no part of a run."""
    found = [path for folder in folders for path in sorted(folder.rglob("*")) if path.name != "lock"]
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in found}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.id} {row.what}")
def test_bad_input_ends_in_one_line_and_nothing_is_written(row: Row, place: Place):
    command = row.command(place)
    if "numerics.device=cuda" in command and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = files(Path.cwd(), place.folder)
    ended = run(*command)
    assert ended.code == row.code, ended
    assert re.search(row.says, ended.err), ended.err
    assert "Traceback" not in ended.out + ended.err
    if row.code:
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1, ended.err
        assert files(Path.cwd(), place.folder) == before


def test_every_row_of_the_catalogue_is_met_here_or_said_to_be_elsewhere():
    assert {row.id for row in ROWS} | set(ELSEWHERE) == {f"B{number}" for number in range(1, 33)}
    assert not {row.id for row in ROWS} & set(ELSEWHERE)


def test_a_base_is_read_from_beside_the_recipe_that_names_it(tmp_path, monkeypatch):
    for folder, steps in (("here", 1), ("recipes/shared", 7)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "base.yaml").write_text(f"base: sinusoid_maml\nsteps: {steps}\n")
    (tmp_path / "recipes" / "mine.yaml").write_text("base: shared/base.yaml\n")
    (tmp_path / "recipes" / "shared" / "other.yaml").write_text("base: base.yaml\nseed: 3\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load("../recipes/mine.yaml").steps == load("../recipes/shared/other.yaml").steps == 7


def test_a_seed_of_null_is_drawn_once_and_saved(place, tmp_path):
    recipe = load("sinusoid_maml", ["seed=null"])
    assert 0 <= recipe.seed < 1 << 32
    assert recipe.public()["seed"] == recipe.seed
    assert len({load("sinusoid_maml", ["seed=null"]).seed for _ in range(4)}) > 1
    data = tiny.recipe("maml", Path("none")).model_dump(mode="json") | {"seed": None}
    drawn = quiet_runs.run(validate(data, "mine"), tmp_path / "run", workers=0)
    again = quiet_runs.run(load(str(tmp_path / "run" / "recipe.yaml")), tmp_path / "again", workers=0)
    assert drawn.theta == again.theta


class LossPerExample(MAML):
    def score(self, adapted, query, context):
        return Score((self.predict(adapted, query.x) - query.y).square().flatten(), {})


class MetricPerExample(MAML):
    def score(self, adapted, query, context):
        return super().score(adapted, query, context)._replace(metrics={"mse": torch.zeros(3)})


class BareLoss(MAML):
    def score(self, adapted, query, context):
        return super().score(adapted, query, context).loss


class OutputsWithoutTheirColumn(MAML):
    """Broadcasting would make a number of it."""

    def predict(self, adapted, x):
        return super().predict(adapted, x).squeeze(1)


class UnusedLeaf(MAML):
    def init(self, rng):
        theta = super().init(rng)
        return {"model": theta["model"] | {"spare": torch.ones(2)}}


class UnusedLeafOfADelta(Reptile):
    def init(self, rng):
        theta = super().init(rng)
        return {"model": theta["model"] | {"spare": torch.ones(2)}}


class OddGradient(Reptile):
    def learn(self, theta, task, context):
        delta, score = super().learn(theta, task, context)
        return {"model": delta["model"] | {"head/bias": torch.zeros(3)}}, score


class OddGroup(Reptile):
    def learn(self, theta, task, context):
        delta, score = super().learn(theta, task, context)
        return delta | {"modle": delta["model"]}, score


class LossOfItsOwn(Reptile):
    def learn(self, theta, task, context):
        delta, score = super().learn(theta, task, context)
        return delta, detach(score)._replace(loss=torch.zeros(4))


class Raises(MAML):
    def adapt(self, theta, support, context):
        raise KeyError("no\nsuch leaf")


@pytest.mark.parametrize(
    ("planted", "error", "says"),
    [
        (LossPerExample, ConfigError, r"its loss has the shape \(10,\), expected one number; take the mean"),
        (MetricPerExample, ConfigError, r"its metric mse has the shape \(3,\), expected one number"),
        (BareLoss, ConfigError, r"a score is Tensor, expected Score\(loss, metrics\)"),
        (OutputsWithoutTheirColumn, ConfigError, r"predict gives the shape \(10,\), expected \(10, 1\)"),
        (UnusedLeaf, ConfigError, r"no gradient reaches model/spare \(zero on 3 training tasks\); use it in the loss"),
        (UnusedLeafOfADelta, ConfigError, r"no gradient reaches model/spare"),
        (OddGradient, ConfigError, r"learn gives model/head/bias the shape \(3,\), theta has \(1,\)"),
        (OddGroup, ConfigError, r"learn gives a gradient for modle, which no optimizer steps"),
        (LossOfItsOwn, ConfigError, r"its loss has the shape \(4,\)"),
        (Raises, TaskError, r"raised on its first task, KeyError: 'no\\nsuch leaf'"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_mistake_in_an_algorithm_is_named_by_the_dry_run(monkeypatch, planted, error, says):
    """B29."""
    name = "maml" if issubclass(planted, MAML) else "reptile"
    monkeypatch.setitem(build.ALGORITHMS, name, planted)
    with pytest.raises(error, match=rf"^algorithm {planted.__name__}: .*{says}") as raised:
        dry_run(load("sinusoid_maml", [f"algorithm={{name: {name}}}"]))
    assert "\n" not in str(raised.value)


class StoresNothing(GradientMemoryMAML):
    def fold(self, theta, records):
        return {}


def test_what_learns_from_a_memory_alone_is_learned_once_something_is_stored(monkeypatch):
    """M_0's keys have no gradient while every delta is 0."""
    recipe = load("sinusoid_gradient_memory")
    dry_run(recipe)
    monkeypatch.setitem(build.ALGORITHMS, "gradientmemory", StoresNothing)
    with pytest.raises(ConfigError, match="no gradient reaches start/keys"):
        dry_run(recipe)


def protonet(images: Path, temperature: float) -> Recipe:
    recipe = tiny.recipe("protonet", images, net={"name": "mlp", "hidden": [64]})
    return recipe.model_copy(update={"algorithm": recipe.algorithm.model_copy(update={"temperature": temperature})})


def test_tasks_that_are_solved_at_the_start_are_a_note_and_a_temperature_gives_them_a_gradient(small_images):
    """ProtoNet's softmax saturates on easy data: its loss and its gradient are exactly 0."""
    notes: list[str] = []
    dry_run(protonet(small_images, 1e-5), notes.append)
    assert len(notes) == 1
    assert "solved at the start (loss 0, accuracy 1), so that no gradient reaches model/layer0/" in notes[0]
    dry_run(protonet(small_images, 100.0), notes.append)
    assert len(notes) == 1


class SolvesNothing(ProtoNet):
    def compare(self, adapted, z_QD):
        return torch.zeros(len(z_QD), len(adapted.means)) * z_QD.sum(), {}


def test_a_gradient_that_is_missing_from_unsolved_tasks_is_an_error(monkeypatch, small_images):
    monkeypatch.setitem(build.ALGORITHMS, "protonet", SolvesNothing)
    with pytest.raises(ConfigError, match="no gradient reaches model/block0"):
        dry_run(tiny.recipe("protonet", small_images))


def test_an_evaluation_rehearses_no_learning(monkeypatch, small_images):
    monkeypatch.setitem(build.ALGORITHMS, "protonet", SolvesNothing)
    dry_run(tiny.recipe("protonet", small_images), learn=False)
