"""Whatever is done to a run in whatever order, it goes on from a step it has taken, with the bits it had there.

Steps, crashes at any write, resumes, damaged and lost files, on the real scheduler, coordinator, journal and publisher
in virtual time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.core.flat import sha256
from pipeline.core.types import Contribution
from pipeline.engine.chunks import chunks_of
from pipeline.engine.durability.coordinator import Coordinator, Durability
from pipeline.engine.durability.identity import Identity
from pipeline.engine.durability.journal import Journal
from pipeline.engine.durability.publisher import STATUSES, Publisher, TrackedRun
from pipeline.engine.interfaces import Applied, Report
from pipeline.engine.outer.optimizer import Outer
from pipeline.engine.outer.store import Store
from pipeline.storage.local import Local
from tests.unit.quadratic import Bowls, maml, vector, worker
from tests.unit.virtual import STRAYS, Recorder, VirtualExecutor

SEED, STEPS, TASKS, CHUNK = 5, 12, 8, 2
ALGORITHM, SOURCE = maml(0.1, 1), Bowls()


class Died(BaseException):
    """The process is gone: no handler of an error may run."""


class Mortal(Local):
    """A folder whose process dies at its next write but ``left``; what is written before is there."""

    left: int | None = None

    def write(self, name: str, data: bytes) -> None:
        self._count()
        super().write(name, data)
        self._count()

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Died


def coordinator(folder: Path, every: int, tracker: Recorder) -> Coordinator:
    layout = worker(ALGORITHM, SOURCE, chunk_size=CHUNK).layout
    outer = {"model": Outer(lr=0.1, clip=1.0, schedule="step", step_every=3)}
    store, storage = Store(ALGORITHM, layout, vector(), outer, STEPS), Mortal(folder)
    journal = Journal(storage)
    publisher = Publisher(tracker, journal, TrackedRun("a name", {}, {}), storage, 3)
    durability = Durability(every, STEPS, 2)
    return Coordinator(store, storage, durability, Identity({}, {}), journal, publisher, {}, accept_numerics=False)


def take(executor: VirtualExecutor, theta: Any, step: int) -> Any:
    """One outer step, as the loop takes it; theta after it."""
    chunks = chunks_of(SEED, step, TASKS, CHUNK, purpose="train", split="train")
    blocks: dict[int, tuple[Contribution, Sequence[Report]]] = {}
    wanted = chunks
    while True:
        blocks |= {reports[0].chunk: (handle, reports) for handle, reports in executor.learn(theta, wanted)}
        handles = {slot: handle for slot, (handle, _) in blocks.items()}
        outcome = executor.apply(step, handles, {"train/loss": float(step)}, [])
        if isinstance(outcome, Applied):
            return outcome.theta
        missing = [report.chunk for slot in outcome.slots for report in blocks.pop(slot)[1]]
        wanted = [chunk for chunk in chunks if chunk.number in missing]


def digest(theta: Any) -> str:
    return sha256(torch.from_numpy(theta))


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> list[str]:
    """Theta's hash after each step of a run that nothing happens to."""
    ours = worker(ALGORITHM, SOURCE, chunk_size=CHUNK)
    executor = VirtualExecutor(ours, coordinator(tmp_path_factory.mktemp("straight"), 1, Recorder()), 2, 0)
    theta = executor.open().theta
    hashes = [digest(theta)]
    for step in range(1, STEPS + 1):
        theta = take(executor, theta, step)
        hashes.append(digest(theta))
    executor.close("FINISHED", {})
    return hashes


class Life(RuleBasedStateMachine):
    """One run's life. ``hashes`` are those of the straight run."""

    hashes: list[str]

    @initialize(every=st.sampled_from([1, 2, 5]), seed=st.integers(0, 9))
    def begin(self, every: int, seed: int) -> None:
        self.folder, self.every, self.seed = Path(tempfile.mkdtemp()), every, seed
        self.tracker = Recorder()
        self.executor: VirtualExecutor | None = None
        self.step, self.durable = 0, 0
        self.resume()

    def resume(self) -> None:
        ours = worker(ALGORITHM, SOURCE, chunk_size=CHUNK)
        self.executor = VirtualExecutor(ours, coordinator(self.folder, self.every, self.tracker), 3, self.seed, STRAYS)
        opened = self.executor.open()
        assert opened.step >= self.durable, "a durable step was lost"
        self.step, self.theta, self.durable = opened.step, opened.theta, opened.step

    @property
    def ours(self) -> Coordinator:
        assert self.executor is not None
        return self.executor.coordinator

    @rule(count=st.integers(1, 4))
    def train(self, count: int) -> None:
        assert self.executor is not None
        for _ in range(min(count, STEPS - self.step)):
            self.theta = take(self.executor, self.theta, self.step + 1)
            self.step += 1
            if self.ours.durability.due(self.step - 1, 0.0):
                self.durable = self.step - 1  # a step is durable when the next one is applied, if not before

    @rule()
    def publish(self) -> None:
        self.ours.publisher.send()

    @precondition(lambda self: self.step < STEPS)
    @rule(left=st.integers(0, 3))
    def die_at_a_write(self, left: int) -> None:
        self.ours.storage.left = left
        try:
            self.train(4)
            self.publish()
        except Died:
            self.ours.storage.left = None
        self.die()

    @rule()
    def wait_a_moment(self) -> None:
        self.ours.flush()
        self.durable = self.step if self.ours.durability.due(self.step, 0.0) else self.durable

    @rule()
    def die(self) -> None:
        self.crash()
        self.resume()

    def crash(self) -> None:
        """No thread of the process writes any more when this returns."""
        with suppress(Died):
            self.ours.flush()
        self.ours.journal.close()
        self.ours.publisher.abandon()
        self.ours.storage.release()

    @rule()
    def stop_and_go_on(self) -> None:
        assert self.ours.close("KILLED", {}) is None
        self.durable = self.step
        self.resume()

    @precondition(lambda self: self.durable)
    @rule(spoil=st.booleans())
    def lose_the_newest_checkpoint(self, spoil: bool) -> None:
        self.crash()
        *before, newest = sorted((self.folder / "checkpoints").iterdir())
        if before:
            newest.write_bytes(newest.read_bytes()[:-1] if spoil else b"")
        else:
            newest.unlink()
        self.durable = int(before[-1].stem.removeprefix("step-")) if before else 0
        self.resume()

    @rule(cut=st.integers(1, 300))
    def tear_the_journal(self, cut: int) -> None:
        self.crash()
        path = self.folder / "journal.jsonl"
        # What a crash can take is what no sync has reached.
        lines = path.read_bytes().splitlines(True) if path.exists() else []
        safe = sum(map(len, lines[: len(lines) - len(self.ours.journal.pending())]))
        if lines:
            with path.open("r+b") as file:
                file.truncate(max(safe, path.stat().st_size - cut))
        self.resume()

    @invariant()
    def theta_is_that_of_the_straight_run(self) -> None:
        if getattr(self, "executor", None) is not None:
            assert digest(self.theta) == self.hashes[self.step]

    @invariant()
    def the_journal_holds_every_step_once(self) -> None:
        if getattr(self, "executor", None) is not None:
            steps = Counter(entry.step for entry in self.ours.journal.since(0) if entry.kind == "train")
            assert set(steps.values()) <= {1}
            assert set(range(1, self.step)) <= set(steps), "only the last step may be on its way"
            assert {entry.kind for entry in self.ours.journal.since(0)} <= {"train", *STATUSES}

    def teardown(self) -> None:
        if getattr(self, "executor", None) is None:
            return
        self.train(STEPS)
        assert self.ours.close("FINISHED", {}) is None
        assert digest(self.theta) == self.hashes[STEPS]
        curve = [step for step, _ in self.tracker.curve("train/loss")]
        assert curve == sorted(set(curve)), "a step was sent twice"
        assert curve[-1] == STEPS
        shutil.rmtree(self.folder)


@pytest.mark.fault("F11")
def test_a_run_survives_whatever_happens_to_it(straight, monkeypatch):
    monkeypatch.setattr("pipeline.engine.durability.publisher.PERIOD_S", 3600.0)
    monkeypatch.setattr(Life, "hashes", straight, raising=False)
    found = settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=6,
        stateful_step_count=12,
        phases=[Phase.generate],  # a failure is told as it was found: to make it shorter takes minutes
    )
    run_state_machine_as_test(Life, settings=found)
