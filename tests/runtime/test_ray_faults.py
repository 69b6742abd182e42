"""What goes wrong inside an actor comes out as one line that names it, and a worker cannot harm what others read.

What is slow here takes the way of a test beside it that is not: the same constructor, or the same comparison.
"""

from __future__ import annotations

import json
import re
import shutil
import threading

import numpy as np
import pytest
from ray.exceptions import RuntimeEnvSetupError

from pipeline import build
from pipeline.core.failures import ClusterError, PipelineError, TaskError
from pipeline.engine.chunks import chunks_of
from pipeline.engine.clock import Monotonic
from pipeline.engine.interfaces import Block
from pipeline.engine.outer.reduce import block_sum
from pipeline.engine.scheduling.events import Joined
from pipeline.engine.scheduling.pool import WorkerPool
from pipeline.engine.scheduling.scheduler import Scheduler
from pipeline.engine.scheduling.timeouts import Timeouts
from pipeline.runtime.cluster import Workers
from pipeline.runtime.ray_errors import constructor_cause, system_failure
from pipeline.runtime.reduction import summed
from pipeline.runtime.transport import RayTransport
from tests.quiet_runs import LIMITS, BuildQuietCoordinator, on_ray
from tests.runtime.planted import (
    ALGORITHM_FAILS,
    SOURCE_FAILS,
    BuildPlanted,
    BuildSeer,
    BuildUnlikeWorkers,
    Careless,
    Hog,
    parts,
)
from tests.runtime.tiny import recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("torch_threads")]


@pytest.fixture(scope="module")
def planted(ray_local):
    """One worker with faults, for all tests of this file."""
    transport = RayTransport(BuildPlanted(), Workers(1, 0.0), "local")
    transport.first_numerics(30.0)
    yield transport
    transport.close()


@pytest.fixture
def pool(planted):
    pool = WorkerPool(planted, Monotonic(), Scheduler(LIMITS), workers=1)
    pool.scheduler.on(Joined(0), pool.clock.now())
    return pool


def chunks(step: int):
    return chunks_of(0, step, 2, 2, purpose="train", split="train")


def test_a_worker_that_writes_to_theta_changes_its_own_copy_only(ray_local, pool):
    theta = parts()[2].numpy()
    reference = ray_local.put(theta)
    ((_, (report,)),) = pool.learn(reference, chunks(1))
    assert report.used == 2
    assert np.array_equal(ray_local.get(reference), theta)


def test_a_block_of_chunks_travels_as_one_sum(ray_local, pool):
    """One worker with eight chunks gets the first four as a block; what comes is added up to the same bits, there."""
    theta = parts()[2].numpy()
    stored = ray_local.put(theta)
    list(pool.learn(stored, chunks(1)))  # now it is known how long a chunk takes
    eight = chunks_of(0, 3, 16, 2, purpose="train", split="train")
    came = {reports[0].chunk: (handle, reports) for handle, reports in pool.learn(stored, eight)}
    assert {slot: len(reports) for slot, (_, reports) in came.items()} == {0: 4, 4: 2, 6: 1, 7: 1}
    assert [report.chunk for slot in sorted(came) for report in came[slot][1]] == list(range(8))
    handles = {slot: handle for slot, (handle, _) in came.items()}
    sums = summed(handles, lambda some: pool.transport.add(0, some), 2)
    assert sums.beneath(tuple(sums.handles)) == (0, 4, 6, 7)
    assert len(sums.handles) <= 2
    whole = ray_local.get(pool.transport.add(0, [sums.handles[slot] for slot in sorted(sums.handles)]))
    alone = BuildPlanted()()
    expected = block_sum(0, (alone.learn(theta, chunk)[0] for chunk in eight))
    assert whole.gradient.tobytes() == expected.gradient.tobytes()
    assert whole[3:] == expected[3:]


@pytest.mark.slow
def test_without_that_copy_it_would_have_changed_everybodys(ray_local):
    """The test above can fail: Ray's shared memory is writable through torch."""
    theta = parts()[2].numpy()
    reference = ray_local.put(theta)
    transport = RayTransport(BuildPlanted(Careless), Workers(1, 0.0), "local")
    try:
        careless = WorkerPool(transport, Monotonic(), Scheduler(LIMITS), workers=1)
        list(careless.learn(reference, chunks(1)))
    finally:
        transport.close()
    assert not np.array_equal(ray_local.get(reference), theta)


def one_line(error: PipelineError) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 500
    return text


@pytest.mark.fault("F7")
@pytest.mark.parametrize(
    ("step", "cause"),
    [(ALGORITHM_FAILS, "ValueError: the inner loop has lost its way"), (SOURCE_FAILS, "KeyError: 'no such wave'")],
    ids=["algorithm", "source"],
)
def test_an_error_in_a_task_ends_the_run_and_names_the_task(pool, step, cause):
    with pytest.raises(TaskError) as raised:
        list(pool.learn(parts()[2].numpy(), chunks(step)))
    text = one_line(raised.value)
    assert f"task train/train/{step}/0" in text
    assert cause in text
    assert f"pipeline.replay(DIR, step={step}, number=0)" in text


@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["of one kind", "mixed"])
def test_a_worker_that_computes_otherwise_is_left_out_unless_the_recipe_says_mixed(mixed, ray_local, tmp_path):
    tiny = recipe("maml", tmp_path)
    build_workers = BuildUnlikeWorkers(tiny.model_dump_json(), str(tmp_path / "marker"))
    transport = RayTransport(build_workers, Workers(2, 0.0, mixed=mixed), "local")
    notes: list[str] = []
    try:
        _, joined = transport.first_numerics(30.0)
        events = list(joined)
        while len(events) < 2:
            events += transport.poll(1.0)
        pool = WorkerPool(transport, Monotonic(), Scheduler(LIMITS), workers=2)
        pool.take(events)
        pool.note = notes.append
        theta = build.build_components(tiny).theta.numpy()
        learned = list(pool.learn(theta, chunks_of(tiny.seed, 1, 8, 2, purpose="train", split="train")))
    finally:
        transport.close()
    assert sorted(type(event).__name__ for event in events) == (["Joined"] * 2 if mixed else ["Joined", "Refused"])
    assert len(learned) == 4
    if mixed:  # unlike machines may disagree about the last bits, and nobody calls that corruption
        assert set(pool.scheduler.accepted.values()) == {()}
    else:
        (worker,) = pool.scheduler.workers
        assert [event.worker for event in events if isinstance(event, Joined)] == [worker]
        assert len(notes) == 1
        assert "isa" in notes[0]
        assert "of another kind" in notes[0]


def executor(tiny, folder, worker=None, coordinator=None, plugins=()):
    text = tiny.model_dump_json()
    return on_ray(
        build.BuildWorker(worker or text, plugins), BuildQuietCoordinator(coordinator or text, str(folder)), 1
    )


PYDANTIC = """creation task, ray::TaskWorker.__init__() (pid=1)
           ^^^^^^^^^^^^
  File "build.py", line 94, in __call__
    return cls.__pydantic_validator__.validate_json(
pydantic_core._pydantic_core.ValidationError: 1 validation error for Recipe
steps
  Field required [type=missing, input_value={'a': 1}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.14/v/missing"""
CAUSES = [
    (PYDANTIC, "ValidationError: 1 validation error for Recipe"),
    (
        "creation task\nKeyError: 'x'\n\nray::A()\na.b.ConfigError: 2 problems:\n  a: b\n  c: d",
        "2 problems: a: b c: d",
    ),
    ("creation task\n  File 1\nNotImplementedError\n", "NotImplementedError"),
    ("creation task\n  File 1\nthe worker's own words", "the worker's own words"),
    ("the node died\nKeyError: 'x'", None),
]


@pytest.mark.parametrize(("text", "cause"), CAUSES)
def test_the_cause_of_a_failed_constructor_is_the_last_error_that_is_named(text, cause):
    assert constructor_cause(text) == cause


def test_a_runtime_environment_that_cannot_be_set_up_is_told_as_what_it_is():
    """``test_addresses`` has Ray say so, which takes it 20 s."""
    said = "Failed to set up runtime environment.\nOSError: gcs://_ray_pkg_0.zip is gone"
    with pytest.raises(
        ClusterError, match="could not set up this job's runtime environment: OSError: gcs://_ray_pkg_0"
    ):
        system_failure(RuntimeEnvSetupError(said))


@pytest.mark.parametrize("actor", ["coordinator", pytest.param("worker", marks=pytest.mark.slow)])
def test_a_recipe_that_an_actors_code_does_not_know_is_named_in_one_line(ray_local, small_images, tmp_path, actor):
    tiny = recipe("maml", small_images)
    newer = json.dumps(tiny.model_dump(mode="json") | {"step": 3, "seeds": 2})
    started = executor(tiny, tmp_path, **{actor: newer})
    try:
        with pytest.raises(ClusterError) as raised:
            started.open()
        text = one_line(raised.value)
        assert "could not start: recipe as the driver sent it (does this node have the driver's code?)" in text
        assert "step: unknown key" in text
        assert "seeds: unknown key" in text
    finally:
        started.ray.close()


def test_a_plug_in_that_a_worker_misses_is_named_in_one_line(ray_local, small_images, tmp_path):
    started = executor(recipe("maml", small_images), tmp_path, plugins=("my_parts",))
    try:
        with pytest.raises(ClusterError) as raised:
            started.open()
        assert one_line(raised.value) == (
            "a worker could not start: --import my_parts: this machine has no module my_parts; start in "
            "the folder that holds it, or install it on every node"
        )
    finally:
        started.ray.close()


@pytest.mark.slow
def test_data_that_only_the_workers_miss_is_named_in_one_line(ray_local, small_images, tmp_path):
    gone = shutil.copy(small_images, tmp_path / "gone.arrow")
    tiny = recipe("protonet", gone)
    gone.unlink()
    started = executor(tiny, tmp_path / "run")
    try:
        with pytest.raises(PipelineError) as raised:
            started.open()
        assert f"{gone} does not exist" in one_line(raised.value)
    finally:
        started.ray.close()


@pytest.mark.slow
def test_a_parameter_actor_that_cannot_start_says_why_in_one_line(ray_local, small_images, tmp_path):
    (tmp_path / "journal.jsonl").write_text("not an entry\n")
    started = executor(recipe("maml", small_images), tmp_path)
    try:
        with pytest.raises(PipelineError) as raised:
            started.open()
        assert "journal.jsonl: line 1 is no entry" in one_line(raised.value)
    finally:
        started.ray.close()


def test_a_cluster_that_is_full_is_told_after_a_while(ray_local, planted, monkeypatch, small_images, tmp_path):
    """Ray itself says nothing: what cannot be placed just waits."""
    monkeypatch.setattr("tests.quiet_runs.LIMITS", Timeouts(wait_s=3.0))
    monkeypatch.setattr("pipeline.runtime.transport.WAITING_S", 0.5)
    planted_worker = 1
    hog = ray_local.remote(Hog).options(num_cpus=ray_local.cluster_resources()["CPU"] - planted_worker).remote()
    assert ray_local.get(hog.here.remote(), timeout=60)
    started = executor(recipe("maml", small_images), tmp_path)
    started.note = (notes := []).append
    ended: list[BaseException] = []

    def open_it() -> None:
        try:
            started.open()
        except PipelineError as error:
            ended.append(error)

    opening = threading.Thread(target=open_it, daemon=True)
    opening.start()
    opening.join(15)
    waits = opening.is_alive()
    started.ray.close()
    ray_local.kill(started.parameters)
    ray_local.kill(hog)
    opening.join(15)
    assert not waits, "open waits for ever"
    assert isinstance(ended[0], ClusterError)
    room = "each asks for 1 CPU and 0 GPU, the cluster has 0 CPU and 2 GPU free"
    assert one_line(ended[0]).startswith(f"no worker was ready in 3 s: {room}")
    assert len(notes) > 1
    assert all(re.fullmatch(rf"no worker is ready after \d s, 3 s at most: {room}", note) for note in notes), notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "gpus", "seen"),
    [(4, 0.5, ["0", "0", "1", "1"]), (3, 0.6, ["0", "1"]), (1, 2.0, ["0,1"])],
    ids=["two on each", "the third waits", "both"],
)
def test_each_worker_sees_the_gpus_that_ray_gave_it(ray_local, count, gpus, seen):
    """Ray believes in two. ``test_placement`` counts the same by itself, every day."""
    transport, notes, told = RayTransport(BuildSeer(), Workers(count, gpus), "local"), [], []
    try:
        _, events = transport.first_numerics(60.0, notes.append)
        joined = list(events)
        while len(joined) < len(seen):
            joined += transport.poll(1.0)
        block = Block((chunks(1)[0],))
        for number, one in enumerate(joined):
            transport.send(one.worker, number, "score", None, block)
        while len(told) < len(joined):
            told += [event.result[0].digest for event in transport.poll(1.0)]
    finally:
        transport.close()
    assert sorted(told) == seen
    assert [note for note in notes if "room for" in note] == ([] if len(seen) == count else notes[:1])
