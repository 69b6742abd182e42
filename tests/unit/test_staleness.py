"""Steps whose gradients are taken at an older theta: which theta it is, and that nothing else about a run changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import load
from pipeline.core.failures import ConfigError
from pipeline.core.flat import sha256
from pipeline.core.source import TaskShape
from pipeline.engine import loop
from pipeline.engine.chunks import blocks_of, chunks_of
from pipeline.engine.evaluate import EvaluationPlan
from pipeline.engine.serial import SerialExecutor
from tests.unit.quadratic import worker
from tests.unit.test_scheduler import ALGORITHM, PLAN, SOURCE, Silent, coordinator
from tests.unit.virtual import CALM, EVERYTHING, LOSSES, Chaos, VirtualExecutor

pytestmark = pytest.mark.usefixtures("torch_threads")

STALE = replace(PLAN, steps=8, max_staleness=2)


def trained(executor: SerialExecutor, plan: loop.Plan) -> str:
    theta = executor.fetch(loop.train(executor, plan, Silent()).theta)
    executor.close("FINISHED", {})
    return sha256(torch.from_numpy(theta))


def serial(folder: Path) -> SerialExecutor:
    return SerialExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(folder))


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained(serial(tmp_path_factory.mktemp("stale")), STALE)


def test_gradients_are_those_at_the_theta_where_their_steps_began(stale, tmp_path):
    """Steps 1 to 3, 4 to 6, and 7 to 8: taken by hand, chunk by chunk."""
    ours, outer = worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(tmp_path / "by hand")
    theta = outer.open(ours.fingerprint).theta
    for step in range(1, STALE.steps + 1):
        if step in (1, 4, 7):
            theta = outer.vector().copy()
        chunks = chunks_of(PLAN.seed, step, PLAN.tasks_per_step, PLAN.chunk_size, purpose="train", split="train")
        outer.commit(step, [ours.learn(theta, chunk)[0] for chunk in chunks], {}, [])
    assert sha256(torch.from_numpy(outer.vector())) == stale
    assert trained(serial(tmp_path / "at each theta"), replace(STALE, max_staleness=0)) != stale


@pytest.mark.parametrize("chaos", [CALM, LOSSES, EVERYTHING], ids=["calm", "losses", "all"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_theta_is_the_same_whatever_the_schedule(stale, workers, chaos: Chaos, tmp_path):
    """Contributions that are lost when they are applied are computed again, beside those of later steps."""
    executor = VirtualExecutor(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(tmp_path), workers, workers, chaos)
    assert trained(executor, STALE) == stale


def test_workers_begin_a_step_before_the_one_before_it_is_applied(tmp_path):
    """With one worker for each chunk of a step, and none waits for the others."""
    applied: dict[int, float] = {}

    class Watched(VirtualExecutor):
        def apply(self, step, *arguments):
            applied[step] = self.clock.now()
            return super().apply(step, *arguments)

    executor = Watched(worker(ALGORITHM, SOURCE, chunk_size=2), coordinator(tmp_path), 7, 0)
    trained(executor, STALE)
    began = {step: min(one.at for one in executor.transport.leases if one.block.step == step) for step in applied}
    assert began[2] < applied[1]
    assert began[3] < applied[2]
    assert began[4] >= applied[3], "its gradient is taken at the theta after step 3"


def test_each_step_says_how_stale_its_gradient_is(tmp_path):
    executor = serial(tmp_path)
    trained(executor, STALE)
    steps = [entry.metrics for entry in executor.coordinator.journal.since(0) if entry.kind == "train"]
    assert [metrics["train/staleness"] for metrics in steps] == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_resumed_run_comes_back_to_the_same_steps(stale, tmp_path):
    assert [list(STALE.at_one_theta(done)) for done in (0, 1, 2, 3, 6)] == [[1, 2, 3], [2, 3], [3], [4, 5, 6], [7, 8]]
    trained(serial(tmp_path), replace(STALE, steps=3))
    assert trained(serial(tmp_path), STALE) == stale


def test_a_validation_is_of_the_theta_of_its_step():
    validation = EvaluationPlan("val", 2, 0, 2, TaskShape(), "")
    plan = replace(STALE, validation=validation, validate_every=4)
    assert [list(plan.at_one_theta(done)) for done in (0, 3, 4, 6)] == [[1, 2, 3], [4], [5, 6], [7, 8]]


def test_a_block_is_of_one_step():
    two = [chunk for step in (1, 2) for chunk in chunks_of(0, step, 8, 2, purpose="train", split="train")]
    blocks = blocks_of(two, 1)
    assert [chunk for block in blocks for chunk in block.chunks] == two
    assert all(len({chunk.step for chunk in block.chunks}) == 1 for block in blocks)


def test_staleness_in_a_run_of_one_step_is_refused():
    with pytest.raises(ConfigError, match="max_staleness: 1 has no effect with steps: 1"):
        load("sinusoid_maml", ["steps=1", "max_staleness=1"])
