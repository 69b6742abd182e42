"""The loop on a tiny recipe put together by build.py: stop and go on, skip and abort, and fixed evaluation tasks."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.build import BuildCoordinator, BuildWorker, build_components, evaluation_plan, plan_of
from pipeline.config import Recipe, validate
from pipeline.core.failures import NonFiniteError, ResumeError, TaskError
from pipeline.core.flat import sha256
from pipeline.core.seeding import Ticket
from pipeline.core.source import TaskShape
from pipeline.core.types import Batch, Context, Score, Task
from pipeline.engine import loop
from pipeline.engine.chunks import chunks_of
from pipeline.engine.durability.checkpoint import Checkpoints, read_checkpoint, write_checkpoint
from pipeline.engine.durability.coordinator import Durability
from pipeline.engine.durability.journal import Journal
from pipeline.engine.evaluate import EvaluationPlan, Row, evaluate, interval
from pipeline.engine.interfaces import Chunk, Entry, ScoreReport
from pipeline.engine.serial import SerialExecutor
from pipeline.engine.trace import scored_points
from pipeline.engine.worker import Worker, _finite
from pipeline.storage.local import Local
from tests.unit.virtual import Recorder

pytestmark = pytest.mark.usefixtures("torch_threads")

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 5,
    "steps": 6,
    "tasks_per_step": 20,
    "chunk_size": 4,
    "algorithm": {"name": "maml", "inner_lr": 0.05, "inner_steps": 1, "eval_inner_steps": 3},
    "net": {"name": "mlp", "hidden": [8]},
    "source": {"name": "sinusoid"},
    "normalisation": "none",
    "task": {"train": {"shots": 5, "queries": 5}, "eval": {"shots": 5, "queries": 7}},
    "outer": {"model": {"optimizer": "adam", "lr": 0.01, "schedule": "cosine"}},
    "evaluation": {"tasks": 21},
}
REPTILE = {"name": "reptile", "inner_lr": 0.01, "inner_steps": 3, "eval_inner_steps": 30}


def recipe(**changes: Any) -> Recipe:
    """Sections are merged, values replaced."""
    merged = {
        key: {**value, **changes.get(key, {})}
        if isinstance(value, dict) and key != "algorithm"
        else changes.get(key, value)
        for key, value in RECIPE.items()
    }
    return validate({**merged, **{key: value for key, value in changes.items() if key not in RECIPE}}, "tiny")


class ProgressListener:
    """Remembers losses and notes; ``stop_after`` is when somebody presses Ctrl-C."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.notes: list[str] = []
        self.stop_after = stop_after

    def start(self, steps: int, done: int) -> None:
        self.began = (steps, done)

    def step(self, step: int, loss: float, metrics: dict[str, float], tasks_per_s: float) -> None:
        assert tasks_per_s > 0
        self.losses[step] = loss
        if step == self.stop_after:
            raise KeyboardInterrupt

    def validated(self, step: int, row: Row, best: bool) -> None:
        self.note(loop.validation_note(step, row, best))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("pipeline.tracking.mlflow_tracker.MLflowTracker", lambda uri, experiment: recorder)
    monkeypatch.setattr("pipeline.engine.durability.publisher.PERIOD_S", 3600.0)  # all is sent at the end
    return recorder


Wrap = Callable[[Any], Any]


def died(executor: SerialExecutor) -> None:
    """What the system does for a process that is gone."""
    executor.coordinator.journal.close()
    executor.coordinator.storage.release()


class Bench:
    """Runs recipes in one folder, where a second run finds what the first one left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def executor(
        self, of: Recipe, wrap: Wrap = lambda source: source, *, accept_numerics: bool = False
    ) -> SerialExecutor:
        worker = BuildWorker(of.model_dump_json())()
        worker.drawing.source = wrap(worker.drawing.source)
        self.folder.mkdir(exist_ok=True)
        return SerialExecutor(
            worker, BuildCoordinator(of.model_dump_json(), str(self.folder), "abc", accept_numerics)()
        )

    def train(self, of: Recipe, listener: ProgressListener | None = None, wrap: Wrap = lambda source: source) -> str:
        """The last theta's hash."""
        executor = self.executor(of, wrap)
        try:
            trained = loop.train(executor, plan_of(of, build_components(of)), listener or ProgressListener())
            executor.close("FINISHED", {"summary.json": json.dumps({"steps": trained.step}).encode()})
        finally:
            died(executor)
        return sha256(torch.from_numpy(executor.fetch(trained.theta)))

    def killed(self, of: Recipe, step: int, wrap: Wrap = lambda source: source) -> None:
        """Nothing is closed, as after ``kill -9`` a moment after the step."""
        executor = self.executor(of, wrap)
        with pytest.raises(KeyboardInterrupt):
            loop.train(executor, plan_of(of, build_components(of)), ProgressListener(step))
        executor.coordinator.flush()
        died(executor)

    def journal(self, kind: str = "train") -> list[Entry]:
        journal = Journal(Local(self.folder))
        journal.load()
        return [entry for entry in journal.since(0) if entry.kind.partition("/")[0] == kind]


@pytest.fixture
def bench(tmp_path: Path, tracker: Recorder) -> Bench:
    return Bench(tmp_path / "run")


@pytest.fixture
def other(tmp_path: Path, tracker: Recorder) -> Bench:
    return Bench(tmp_path / "other")


def lasting(entry: Entry) -> tuple[int, dict[str, float]]:
    """What does not depend on the clock."""
    return entry.step, {key: value for key, value in entry.metrics.items() if key.startswith("train/")}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_run_that_was_killed_and_resumed_has_the_bits_of_one_that_was_not(bench, other, every, stop):
    of = recipe(checkpoint={"every": every, "keep": 2})
    straight = other.train(of)
    bench.killed(of, stop)
    listener = ProgressListener()
    assert bench.train(of, listener) == straight
    assert listener.began == (6, stop // every * every)
    assert [lasting(entry) for entry in bench.journal()] == [lasting(entry) for entry in other.journal()]
    assert [entry.step for entry in bench.journal()] == list(range(1, 7))


@pytest.mark.parametrize(("every", "lost"), [(1, 1), (4, 4)])
def test_what_the_journal_lost_in_a_crash_is_in_the_checkpoint(bench, other, every, lost):
    of = recipe(checkpoint={"every": every, "keep": 2})
    other.train(of)
    bench.killed(of, 4)
    path = bench.folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) - lost]) + lines[-1][:20])
    bench.train(of)
    assert [lasting(entry) for entry in bench.journal()] == [lasting(entry) for entry in other.journal()]


@pytest.mark.parametrize(("sync_every", "carried"), [(32, [1, 2, 3, 4, 5, 6]), (3, [4, 5, 6])])
def test_a_checkpoint_carries_what_is_not_durable_in_the_journal(bench, monkeypatch, sync_every, carried):
    monkeypatch.setattr("pipeline.engine.durability.coordinator.SYNC_EVERY", sync_every)
    bench.train(recipe(checkpoint={"every": 4, "keep": 2}))
    facts = read_checkpoint(Local(bench.folder), "checkpoints/step-00000006.safetensors").metadata
    assert [Entry(*entry).step for entry in facts["entries"]] == carried


def test_a_run_that_is_resumed_with_more_steps_is_the_longer_run(bench, other):
    outer = {"model": {"optimizer": "adam", "schedule": "step", "step_every": 2}}
    longer, shorter = recipe(outer=outer, steps=7), recipe(outer=outer, steps=3)
    bench.train(shorter)
    assert bench.train(longer) == other.train(longer)


def test_a_finished_run_that_is_resumed_stays_as_it_is(bench):
    first = bench.train(recipe())
    listener = ProgressListener()
    assert bench.train(recipe(), listener) == first
    assert listener.losses == {}


def test_a_run_that_is_further_than_asked_is_refused(bench):
    outer = {"model": {"optimizer": "adam"}}
    bench.train(recipe(outer=outer, steps=5))
    with pytest.raises(ResumeError, match="has taken 5 steps, more than steps: 3"):
        bench.train(recipe(outer=outer, steps=3))


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_is_stopped_saves_its_last_step(bench, other, status):
    """Whatever ``checkpoint.every`` says; no step that was taken is taken again."""
    of = recipe(checkpoint={"every": 5})
    executor = bench.executor(of)
    with pytest.raises(KeyboardInterrupt):
        loop.train(executor, plan_of(of, build_components(of)), ProgressListener(3))
    assert executor.close(status, {}) is None
    listener = ProgressListener()
    assert bench.train(of, listener) == other.train(of)
    assert listener.began == (6, 3)


def test_a_step_that_is_torn_in_the_middle_is_not_saved(bench, other, monkeypatch):
    """Ctrl-C may come while the outer optimizer writes: that theta is nobody's."""
    of = recipe(checkpoint={"every": 5})
    executor = bench.executor(of)
    fold = executor.coordinator.store._fold

    def interrupted(used: Any) -> None:
        fold(used)
        if executor.coordinator.store.version == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(executor.coordinator.store, "_fold", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.train(executor, plan_of(of, build_components(of)), ProgressListener())
    executor.close("KILLED", {})
    listener = ProgressListener()
    assert bench.train(of, listener) == other.train(of)
    assert listener.began == (6, 0)


def test_without_a_number_of_steps_the_clock_decides(bench, other):
    of = recipe(checkpoint={"every": 6})
    executor = bench.executor(of)
    ticks = iter(range(0, 1000, 25))
    executor.coordinator.durability = Durability(0, 6, 9, seconds=60.0)
    executor.coordinator.checkpoints.keep = 9
    executor.coordinator.now = lambda: float(next(ticks))
    loop.train(executor, plan_of(of, build_components(of)), ProgressListener())
    executor.close("FINISHED", {})
    # Opened at 0 s; looked at 25, 50 and 75 s, and saved at 100 s; looked at 125, 150 and 175 s.
    assert Checkpoints(Local(bench.folder), 1).steps() == [3, 6]


def test_what_the_tracker_is_told(bench, tracker):
    bench.train(recipe(tracking={"log_every": 4}))
    assert tracker.status == "FINISHED"
    assert (tracker.params["algorithm.inner_lr"], tracker.params["outer.model.schedule"]) == ("0.05", "cosine")
    assert {"git_commit", "data", "numerics.torch", "numerics.threads", "theta_sha256", "normalisation"} <= set(
        tracker.tags
    )
    losses = {step: metrics["train/loss"] for step, metrics in map(lasting, bench.journal())}
    expected = [(4, np.mean([losses[step] for step in range(1, 5)])), (6, np.mean([losses[5], losses[6]]))]
    assert [step for step, _ in tracker.curve("train/loss")] == [4, 6]
    assert dict(tracker.curve("train/loss")) == pytest.approx(dict(expected))
    keys = {key for key, _, _ in tracker.points}
    assert {f"time/{part}" for part in ("sampling", "inner_loop", "reduction", "checkpoint", "waiting")} <= keys
    assert {"tasks_per_s", "train/grad_norm/model", "train/lr/model", "train/mse", "train/skipped"} <= keys
    assert tracker.artifacts == ["recipe.yaml", "summary.json", "checkpoints/step-00000006.safetensors"]


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_of_the_end_is_told(bench, tracker, status):
    executor = bench.executor(recipe())
    executor.open()
    executor.close(status, {})
    assert tracker.status == status
    assert not (bench.folder / "summary.json").exists()


class Wrapped:
    """A source in which some training tasks of step 2 are changed."""

    def __init__(self, source: Any, numbers: Collection[int], change: Callable[[Task[Batch]], Task[Batch]]) -> None:
        self.source, self.numbers, self.change = source, numbers, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def sample(self, ticket: Ticket) -> Task[Batch]:
        task = self.source.sample(ticket)
        chosen = ticket.purpose == "train" and ticket.step == 2 and ticket.number in self.numbers
        return self.change(task) if chosen else task


def nan_query(task: Task[Batch]) -> Task[Batch]:
    return task._replace(query=task.query._replace(y=task.query.y * math.nan))


def infinite_support(task: Task[Batch]) -> Task[Batch]:
    return task._replace(support=task.support._replace(x=task.support.x * math.inf))


def overflowing(task: Task[Batch]) -> Task[Batch]:
    return task._replace(support=task.support._replace(y=task.support.y + 1e308))


def without(task: Task[Batch]) -> Task[Batch]:
    return task._replace(weight=0.0)


def altered(change: Callable[[Task[Batch]], Task[Batch]], *numbers: int) -> Wrap:
    return lambda source: Wrapped(source, numbers, change)


@pytest.mark.fault("F6")
@pytest.mark.parametrize("change", [nan_query, infinite_support, overflowing])
@pytest.mark.parametrize("algorithm", [RECIPE["algorithm"], REPTILE], ids=["maml", "reptile"])
def test_a_task_that_is_not_finite_is_as_if_it_were_not_there(bench, other, change, algorithm):
    of = recipe(algorithm=algorithm, steps=3, numerics={"dtype": "float64", "vectorise": False})
    bench.train(of, wrap=altered(change, 13))
    other.train(of, wrap=altered(without, 13))
    last = [Checkpoints(Local(each.folder), 1).newest()[0] for each in (bench, other)]
    for name, tensor in last[1].tensors.items():
        assert torch.equal(last[0].tensors[name], tensor), name
    assert last[0].metadata["skipped"] == ["train/train/2/13"]
    assert [entry.metrics["train/skipped"] for entry in bench.journal()] == [0, 1, 0]


@pytest.mark.parametrize(("value", "finite"), [(math.nan, 0), (math.inf, 0), (-math.inf, 0), (3e38, 1), (-1e-45, 1)])
def test_each_number_of_a_gradient_and_of_a_loss_is_looked_at(value, finite):
    """A sum of finite numbers may overflow, and infinities may cancel out."""
    odd = torch.tensor([[0.0, value], [value, -value if math.isfinite(value) else 1.0]])
    leaves, kept = {"a": torch.ones(3), "b": odd, "none": torch.ones(0)}, odd.clone()
    assert _finite({"model": leaves}, Score(torch.ones(4), {})) == finite
    assert _finite({"model": {"a": torch.ones(3)}}, Score(odd, {})) == finite
    assert torch.equal(odd.nan_to_num(), kept.nan_to_num())


@pytest.mark.parametrize("number", [12, 13, 14, 15])
def test_a_skipped_task_leaves_its_slot_empty_and_the_others_where_they_are(number):
    """The tree is over slots: closing up would round otherwise."""
    of = recipe(numerics={"dtype": "float64", "vectorise": False})
    gradients = []
    for change in (nan_query, without):
        worker = BuildWorker(of.model_dump_json())()
        worker.drawing.source = altered(change, number)(worker.drawing.source)
        chunk = chunks_of(5, 2, 20, 4, purpose="train", split="train")[3]
        contribution, report = worker.learn(build_components(of).theta.numpy(), chunk)
        assert contribution.weight == 3.0
        assert report.skipped == ((f"train/train/2/{number}",) if change is nan_query else ())
        gradients.append(contribution.gradient)
    assert np.array_equal(*gradients)


def test_a_vectorised_chunk_with_a_task_that_is_not_finite_agrees_with_the_loop(bench, other):
    thetas = []
    for each, vectorise in ((bench, True), (other, False)):
        of = recipe(steps=3, numerics={"dtype": "float64", "vectorise": vectorise})
        each.train(of, wrap=altered(nan_query, 13))
        checkpoint = Checkpoints(Local(each.folder), 1).newest()[0]
        thetas.append(torch.cat([tensor.flatten() for tensor in checkpoint.tensors.values()]))
        assert checkpoint.metadata["skipped"] == ["train/train/2/13"]
    torch.testing.assert_close(*thetas, rtol=0, atol=1e-10)


def test_loss_and_metrics_are_means_over_the_used_tasks(bench):
    of = recipe(numerics={"dtype": "float64"})
    components = build_components(of)
    wrapped = altered(nan_query, 3)(components.source)
    executor = bench.executor(of, altered(nan_query, 3))
    opened = executor.open()
    chunks = chunks_of(5, 2, 20, 4, purpose="train", split="train")
    reports = [report for _, block in executor.learn(opened.theta, chunks) for report in block]
    losses = []
    theta = components.layout.unpack(torch.from_numpy(opened.theta))
    for number in range(20):
        task = wrapped.sample(Ticket(5, "train", "train", 2, number))
        losses.append(components.algorithm.learn(theta, task, Context(2, "train", 1, {}))[1].loss.item())
    assert math.isnan(losses.pop(3))
    assert sum(report.used for report in reports) == 19
    loss, metrics = loop._means(reports)
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert metrics["mse"] == pytest.approx(np.mean(losses), rel=1e-12)


def test_a_skipped_task_is_skipped_again_after_a_resume(bench, other):
    of = recipe(checkpoint={"every": 4})
    wrap = altered(nan_query, 13)
    straight = other.train(of, wrap=wrap)
    bench.killed(of, 5, wrap)
    assert bench.train(of, wrap=wrap) == straight
    assert Checkpoints(Local(bench.folder), 1).newest()[0].metadata["skipped"] == ["train/train/2/13"]


def test_more_than_one_task_in_twenty_ends_the_run_with_the_line_that_reproduces_it(bench):
    with pytest.raises(NonFiniteError) as raised:
        bench.train(recipe(), wrap=altered(nan_query, 17, 13))
    message = str(raised.value)
    for expected in ("step 2", "2 of 20 tasks", "train/train/2/13", "pipeline.replay(DIR, step=2, number=13)"):
        assert expected in message
    assert "\n" not in message
    assert Checkpoints(Local(bench.folder), 1).newest()[0].step == 1


def test_a_step_of_which_nothing_is_finite_says_so_too(bench):
    with pytest.raises(NonFiniteError, match="20 of 20 tasks"):
        bench.train(recipe(), wrap=altered(nan_query, *range(20)))


@pytest.mark.fault("F5")
def test_a_gpu_without_memory_says_what_would_need_less(bench):
    def too_large(task: Task[Batch]) -> Task[Batch]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(TaskError, match=r"task train/train/2/13 .* Tried to allocate .* A smaller chunk_size or fewer"):
        bench.train(recipe(), wrap=altered(too_large, 13))


@pytest.mark.fault("F7")
def test_a_task_that_raises_is_named_with_the_line_that_reproduces_it(bench):
    def broken(task: Task[Batch]) -> Task[Batch]:
        raise ZeroDivisionError("no\n  amplitude")

    with pytest.raises(TaskError) as raised:
        bench.train(recipe(), wrap=altered(broken, 13))
    message = str(raised.value)
    expected = "task train/train/2/13 of seed 5: ZeroDivisionError: no amplitude"
    assert message.startswith(expected)
    assert "pipeline.replay(DIR, step=2, number=13)" in message


@pytest.mark.fault("F24", "F28")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 6}, ["seed: 5 -> 6"]),
        ({"tasks_per_step": 16, "seed": 6}, ["seed: 5 -> 6", "tasks_per_step: 20 -> 16"]),
        ({"outer": {"model": {"lr": 0.02, "schedule": "cosine"}}}, ["outer.model.lr: 0.01 -> 0.02"]),
        ({"algorithm": {**RECIPE["algorithm"], "inner_lr": 0.1}}, ["algorithm.inner_lr: 0.05 -> 0.1"]),
        (
            {"algorithm": REPTILE},
            ["algorithm.name: 'maml' -> 'reptile' (refused)", "inner_batch: none -> 10 (ref"],
        ),
        ({"task": {"train": {"shots": 6, "queries": 5}}}, ["task.train.shots: 5 -> 6"]),
        ({"source": {"phase": [0.0, 2.0]}}, ["data:", "source.phase: [0.0, 3.14159", "-> [0.0, 2.0] (refused)"]),
        ({"numerics": {"dtype": "float64"}}, ["numerics.dtype: 'float32' -> 'float64'"]),
        ({"seed": 6, "workers": {"count": 3}}, ["seed: 5 -> 6 (refused)", "workers.count: 2 -> 3 (allowed)"]),
        ({"chunk_size": 8}, ["chunk_size: 4 -> 8 (refused)"]),
        ({"steps": 8}, ["steps: 6 -> 8"]),  # the cosine ends elsewhere
    ],
)
def test_a_resume_with_another_recipe_is_refused_and_says_in_what(bench, changes, expected):
    bench.train(recipe())
    with pytest.raises(ResumeError) as raised:
        bench.train(recipe(**changes))
    for text in (*expected, "--output"):
        assert text in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": {"count": 7}},
        {"tracking": {"log_every": 3}},
        {"checkpoint": {"every": 2, "keep": 5}},
        {"evaluation": {"tasks": 5}},
        {"task": {"eval": {"shots": 3, "queries": 3}}},
        {"name": "other"},
        {"algorithm": {**RECIPE["algorithm"], "eval_inner_steps": 5}},
    ],
)
def test_what_does_not_decide_theta_may_change_on_a_resume(bench, other, changes):
    bench.killed(recipe(), 3)
    assert bench.train(recipe(**changes)) == other.train(recipe())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"numerics": {"threads": 2}}, "threads 1 -> 2"), ({"numerics": {"vectorise": False}}, "vectorise true -> false")],
)
def test_what_the_bits_depend_on_is_refused_with_the_difference(bench, changes, expected):
    bench.killed(recipe(), 3)
    with pytest.raises(ResumeError, match=f"other numerics: {expected};"):
        bench.train(recipe(**changes))


def test_another_processor_is_other_numerics(bench, monkeypatch):
    bench.killed(recipe(), 3)
    monkeypatch.setattr("pipeline.engine.numerics.processor", lambda: "Z80")
    with pytest.raises(ResumeError, match=r"cpu .* -> Z80"):
        bench.train(recipe())


@pytest.mark.fault("F25")
def test_other_numerics_are_refused_unless_accepted_and_then_recorded(bench):
    bench.killed(recipe(), 3)
    looped = recipe(numerics={"vectorise": False})
    with pytest.raises(ResumeError, match=r"vectorise true -> false.*--accept-numerics"):
        bench.train(looped)
    executor = bench.executor(looped, accept_numerics=True)
    loop.train(executor, plan_of(looped, build_components(looped)), ProgressListener())
    executor.close("FINISHED", {})
    facts = Checkpoints(Local(bench.folder), 1).newest()[0].metadata
    assert facts["identity"]["numerics"]["vectorise"] == "false"
    assert facts["identity"]["numerics_changes"] == ["step 3: vectorise true -> false"]
    bench.train(looped)  # the new numerics are the run's own now


@pytest.mark.fault("F26")
def test_a_damaged_checkpoint_is_passed_over_and_the_person_who_looks_on_is_told(bench, other):
    of = recipe(checkpoint={"keep": 3})
    bench.killed(of, 4)
    newest = bench.folder / "checkpoints" / "step-00000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    listener = ProgressListener()
    assert bench.train(of, listener) == other.train(of)
    assert listener.began == (6, 3)
    (note,) = listener.notes
    assert "step-00000004.safetensors" in note
    assert note.endswith("going on from step 3")


def test_a_damaged_best_theta_is_told_and_replaced(bench):
    of = recipe(evaluation=VALIDATED)
    bench.killed(of, 3)
    (bench.folder / "best.safetensors").write_bytes(b"")
    listener = ProgressListener()
    bench.train(of, listener)
    assert "best.safetensors" in listener.notes[0]
    assert read_checkpoint(Local(bench.folder), "best.safetensors").step in (4, 6)


def test_the_best_theta_of_another_run_is_told_and_replaced(bench, other):
    of = recipe(evaluation=VALIDATED)
    bench.killed(of, 3)
    other.killed(recipe(evaluation=VALIDATED, seed=6), 3)
    (bench.folder / "best.safetensors").write_bytes((other.folder / "best.safetensors").read_bytes())
    listener = ProgressListener()
    bench.train(of, listener)
    assert "best.safetensors: was trained with other values" in listener.notes[0]
    assert "seed: 6 -> 5" in listener.notes[0]


def test_a_run_of_an_older_format_is_not_continued(bench, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("pipeline.engine.durability.checkpoint.FORMAT", 1)
        bench.killed(recipe(), 3)
    with pytest.raises(ResumeError, match="have format 1, and this version goes on from format 3"):
        bench.train(recipe())


def test_a_folder_of_damaged_checkpoints_is_refused_and_not_begun_anew(bench):
    bench.train(recipe())
    for path in (bench.folder / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ResumeError, match=r"no valid checkpoint: .*step-00000006.*step-00000005"):
        bench.train(recipe())


VALIDATED = {"tasks": 21, "validation_tasks": 9, "validate_every": 2}
LONGER = {"eval_inner_steps": 5}


def test_validation_is_journaled_and_the_best_theta_kept(bench):
    listener = ProgressListener()
    bench.train(recipe(evaluation=VALIDATED), listener)
    curve = {entry.step: entry.metrics["val/mse/after_3_steps"] for entry in bench.journal("validation")}
    assert list(curve) == [2, 4, 6]
    best = min(curve, key=lambda step: curve[step])
    assert read_checkpoint(Local(bench.folder), "best.safetensors").step == best
    assert [note.startswith(f"step {step}: validation mse") for step, note in zip(curve, listener.notes, strict=True)]


def test_validation_on_one_task_has_no_interval(bench):
    listener = ProgressListener()
    bench.train(recipe(evaluation=VALIDATED | {"validation_tasks": 1}), listener)
    assert listener.notes
    assert not any("nan" in note for note in listener.notes)


def test_validation_does_not_change_the_run(bench, other):
    assert bench.train(recipe(evaluation=VALIDATED)) == other.train(recipe())


def test_the_best_theta_so_far_is_remembered_by_a_resumed_run(bench):
    """It was found after the checkpoint of its step was written."""
    executor = bench.executor(recipe())
    executor.open()
    theta = executor.coordinator.store.vector()
    chunks = chunks_of(5, 1, 20, 4, purpose="train", split="train")
    executor.apply(1, {reports[0].chunk: handle for handle, reports in executor.learn(theta, chunks)}, {}, [])
    assert executor.keep_best(1, 0.9, "these tasks")
    executor.close("KILLED", {})

    resumed = bench.executor(recipe())
    resumed.open()
    assert not resumed.keep_best(1, 0.5, "these tasks"), "a worse theta took the place of the best one"
    assert resumed.keep_best(1, 0.5, "other tasks"), "scores of different tasks were compared"
    assert not resumed.keep_best(1, 0.4, "other tasks")
    resumed.close("KILLED", {})


def test_a_best_theta_that_was_kept_without_its_evaluation_is_compared_with_any(bench):
    bench.killed(recipe(evaluation=VALIDATED), 3)
    kept = read_checkpoint(Local(bench.folder), "best.safetensors")
    older = kept._replace(metadata={**kept.metadata, "best": [2, 0.9]})
    write_checkpoint(Local(bench.folder), "best.safetensors", older)
    resumed = bench.executor(recipe(evaluation=VALIDATED))
    resumed.open()
    assert not resumed.keep_best(3, 0.5, "these tasks")
    assert resumed.keep_best(3, 0.95, "these tasks")
    resumed.close("KILLED", {})


@pytest.mark.parametrize("best", [[2], [2, 0.9, 7], [2, 0.9, "these tasks", "more"], [True, 0.9, "these tasks"]])
def test_a_best_score_that_no_run_writes_is_told(bench, best):
    bench.killed(recipe(evaluation=VALIDATED), 3)
    kept = read_checkpoint(Local(bench.folder), "best.safetensors")
    strange = kept._replace(metadata={**kept.metadata, "best": best})
    write_checkpoint(Local(bench.folder), "best.safetensors", strange)
    listener = ProgressListener()
    bench.train(recipe(evaluation=VALIDATED), listener)
    assert "expected a step, a score and an evaluation" in listener.notes[0]


@pytest.mark.parametrize(
    "changes", [{"evaluation": {**VALIDATED, "validation_tasks": 7}}, {"algorithm": {**RECIPE["algorithm"], **LONGER}}]
)
def test_after_another_validation_the_best_theta_is_the_best_of_that_one(bench, changes):
    """The first of the old one, so good that no later score could beat it, is not compared with the new ones."""
    executor = bench.executor(recipe(evaluation=VALIDATED))
    executor.open()
    assert executor.keep_best(0, 0.0, plan_of(recipe(evaluation=VALIDATED), build_components(recipe())).validation.key)
    died(executor)
    of = recipe(**{"evaluation": VALIDATED, **changes})
    bench.train(of)
    scores = {entry.step: next(reversed(entry.metrics.values())) for entry in bench.journal("validation")}
    best = read_checkpoint(Local(bench.folder), "best.safetensors")
    assert best.step == min(scores, key=scores.__getitem__)
    assert best.metadata["best"] == [best.step, -scores[best.step], plan_of(of, build_components(of)).validation.key]


@pytest.mark.parametrize("stop", ["before validation", "before the step"])
def test_a_validation_that_a_crash_prevented_is_made_up_for(bench, other, stop, monkeypatch):
    of = recipe(evaluation=VALIDATED)
    other.train(of)

    def crash(*_: Any) -> Iterator[ScoreReport]:
        raise KeyboardInterrupt

    if stop == "before validation":
        executor = bench.executor(of)
        monkeypatch.setattr(executor, "score", crash)
        with pytest.raises(KeyboardInterrupt):
            loop.train(executor, plan_of(of, build_components(of)), ProgressListener())
        died(executor)
    else:
        bench.killed(of, 1)
    bench.train(of)
    assert [entry.step for entry in bench.journal("validation")] == [
        entry.step for entry in other.journal("validation")
    ]


def test_the_interval_is_that_of_a_mean_over_tasks():
    values = [1.0, 2.0, 4.0, 7.0, 11.0]
    spread = math.sqrt(sum((value - 5.0) ** 2 for value in values) / 4)
    assert interval(values) == pytest.approx((5.0, 1.96 * spread / math.sqrt(5)))
    mean, half = interval([3.0])
    assert mean == 3.0
    assert math.isnan(half)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, (0,)),
        (2, (0, 1)),
        (11, tuple(range(11))),
        (12, (0, 1, 2, 5, 10, 11)),
        (21, (0, 1, 2, 5, 10, 20)),
        (51, (0, 1, 2, 5, 10, 20, 50)),
        (1001, (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
    ],
)
def test_points_of_a_trace_that_are_scored(length, expected):
    assert scored_points(iter(range(length))) == {point: point for point in expected}


def test_points_that_are_not_scored_are_let_go():
    alive: weakref.WeakSet[Weights] = weakref.WeakSet()
    most = 0

    def trace():
        nonlocal most
        for _ in range(101):
            one = Weights()
            alive.add(one)
            most = max(most, len(alive))
            yield one

    assert list(scored_points(trace())) == [0, 1, 2, 5, 10, 20, 50, 100]
    assert most <= 12  # the first eleven, which a trace of ten steps would score, and the one that is made


class Weights:
    """Something that can be counted."""


@pytest.mark.parametrize(("count", "size"), [(1, 1), (8, 8), (9, 8), (17, 4)])
def test_chunks_hold_each_task_once_in_order(count, size):
    chunks = chunks_of(5, 3, count, size, purpose="train", split="val")
    assert [chunk.number for chunk in chunks] == list(range(-(-count // size)))
    assert [ticket for chunk in chunks for ticket in chunk.tickets] == [
        Ticket(5, "train", "val", 3, number) for number in range(count)
    ]
    assert all(len(chunk.tickets) == size for chunk in chunks[:-1])


def worker_of(of: Recipe, seen: list[Task[Batch]] | None = None) -> tuple[Worker, np.ndarray]:
    worker, theta = BuildWorker(of.model_dump_json())(), build_components(of).theta.numpy()
    sample = worker.drawing.source.sample

    def watched(ticket: Ticket) -> Task[Batch]:
        task = sample(ticket)
        if seen is not None:
            seen.append(task)
        return task

    worker.drawing.source.sample = watched  # type: ignore[method-assign]
    return worker, theta


class Scorer:
    """A worker that answers in another order than it was asked in."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def score(self, theta: Any, chunks: Sequence[Chunk]) -> Iterator[ScoreReport]:
        return (self.worker.score(theta, chunk) for chunk in reversed(chunks))


def rows_of(of: Recipe, seen: list[Task[Batch]] | None = None) -> list[Row]:
    worker, theta = worker_of(of, seen)
    return evaluate(Scorer(worker), theta, evaluation_plan(of, worker.drawing.source)).rows()


@pytest.mark.parametrize("algorithm", [RECIPE["algorithm"], REPTILE], ids=["maml", "reptile"])
def test_rows_are_means_over_tasks_of_the_metric_along_the_trace(algorithm):
    of = recipe(algorithm=algorithm, numerics={"dtype": "float64"})
    components = build_components(of)
    theta = components.layout.unpack(components.theta)
    plan = evaluation_plan(of, components.source)
    values = []
    for number in range(plan.tasks):
        ticket = Ticket(plan.seed, "evaluate", "test", 0, number)
        task = components.source.sample(ticket)
        noise = components.algorithm.draw(ticket.rng("noise"), task, "evaluate")
        context = Context(0, "evaluate", 1, noise)
        trace = tuple(components.algorithm.trace(theta, task.support, context))
        values.append([components.algorithm.score(point, task.query, context).loss.item() for point in trace])
    array = np.array(values)
    rows = rows_of(of)
    assert [row.point for row in rows] == list(scored_points(range(array.shape[1])))
    for row in rows:
        assert (row.metric, len(array)) == ("mse", 21)
        assert (row.mean, row.ci95) == pytest.approx(interval(array[:, row.point]), rel=1e-9)


def test_every_method_is_judged_by_the_same_tasks():
    seen: list[list[Task[Batch]]] = []
    hashes = set()
    variants = [
        recipe(),
        recipe(algorithm=REPTILE),
        recipe(seed=99, chunk_size=4, tasks_per_step=8),
        recipe(net={"hidden": [4, 4]}, numerics={"vectorise": False}, task={"train": {"shots": 2, "queries": 9}}),
    ]
    for of in variants:
        tasks: list[Task[Batch]] = []
        rows_of(of, tasks)
        seen.append(sorted(tasks, key=lambda task: int(task.id.rsplit("/", 1)[1])))
        hashes.add(evaluation_plan(of, build_components(of).source).hash)
    assert len(hashes) == 1
    for tasks in seen[1:]:
        assert len(tasks) == len(seen[0]) == 21
        for task, first in zip(tasks, seen[0], strict=True):
            assert task.id == first.id
            pairs = zip((*task.support, *task.query), (*first.support, *first.query), strict=True)
            assert all(torch.equal(left, right) for left, right in pairs)


def test_chunks_do_not_change_what_is_measured():
    rows = [rows_of(recipe(chunk_size=size, numerics={"dtype": "float64"})) for size in (1, 8, 32)]
    for other_rows in rows[1:]:
        for one, same in zip(rows[0], other_rows, strict=True):
            assert (one.point, one.metric) == (same.point, same.metric)
            assert (one.mean, one.ci95) == pytest.approx((same.mean, same.ci95), rel=1e-10)


def test_the_evaluation_hash_tells_tasks_apart():
    plan = EvaluationPlan("test", 21, 5, 8, TaskShape(5, 1, 15), "abc")
    others = [
        replace(plan, split="val"),
        replace(plan, tasks=22),
        replace(plan, seed=6),
        replace(plan, data="abd"),
        *(replace(plan, shape=replace(plan.shape, **{key: 2})) for key in ("ways", "shots", "queries")),
        replace(plan, settings={"rotations": "classes"}),
    ]
    assert len({one.hash for one in (plan, *others)}) == 1 + len(others)
    assert replace(plan, chunk_size=1).hash == plan.hash
    assert replace(plan, settings={"rotations": "none"}).hash == plan.hash, "results of before would be of other tasks"


def test_validation_and_the_final_table_use_different_tasks():
    of = recipe(evaluation=VALIDATED)
    components = build_components(of)
    plan, final = plan_of(of, components), evaluation_plan(of, components.source)
    assert plan.validation is not None
    assert (plan.validation.split, plan.validation.tasks, final.split, final.tasks) == ("val", 9, "test", 21)
    assert plan.validation.hash != final.hash
    assert plan_of(recipe(), components).validation is None
