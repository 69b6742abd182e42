"""Same seed, same answer: one process, any number of Ray workers, and runs that stop and go on."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from pipeline.build import build_components
from pipeline.runtime.line import LARGEST
from tests.quiet_runs import run
from tests.runtime.planted import BuildFallingWorker
from tests.runtime.standing import BuildManyWorkers, Seats, stand
from tests.runtime.tiny import CHUNK, MLP, SEEDS, STEPS, TASKS, WORDS, cheetah, recipe, sets, words

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local", "torch_threads")]


UNLIKE = (
    "maml",
    "reptile",
    "protonet",
    "metamemory",
    "memoryrnn",
    "cnp",
    "np",
    "anp",
    "metagan_maml",
    "maml_rl",
    "rl2",
)
"""A gradient, a delta, a folded state group, a memory, a recurrent net; sets of unequal size, samples of z, a game; an
agent."""
INSTALLED = ("cheetah",) if find_spec("mujoco") else ()
needs_mujoco = pytest.mark.skipif(not INSTALLED, reason="needs the extra control")
COUNTS = [
    *(
        pytest.param(name, counts, marks=pytest.mark.slow)
        for name, counts in (
            ("maml", (1, 2, 3)),
            ("protonet", (1, 2, 3)),
            ("reptile", (3,)),
            ("metamemory", (1, 3)),
            ("memoryrnn", (3,)),
            ("cnp", (1, 2, 3)),
            ("np", (1, 2, 3)),
            ("anp", (1, 2, 3)),
            *((source, (1, 2, 3)) for source in (*WORDS, "image_sets")),
            ("metagan_maml", (1, 2, 3)),
            ("maml_rl", (1, 2, 3)),
            ("rl2", (1, 2, 3)),
            ("stale", (1, 2, 3)),
        )
    ),
    pytest.param("cheetah", (1, 2, 3), marks=[pytest.mark.slow, needs_mujoco]),
]
"""How many workers each algorithm, MAML on each source of pairs and on support sets in sequence, MAML whose workers go
on while a step is applied, or MAML-RL in MuJoCo is given."""


def running(images, steps=STEPS):
    """With Adam's moments, a schedule and a state group: a resume has all of them to restore."""
    outer = {"model": {"optimizer": "adam", "lr": 0.01, "schedule": "step", "step_every": 2}}
    return recipe("protonet", images, steps, normalisation="running", outer=outer, seed=max(SEEDS.values()) + 1)


def of(algorithm, images):
    if algorithm == "large":
        return recipe("maml", images, 2, net={**MLP, "hidden": [600, 600]}, seed=400)
    if algorithm == "stale":
        return recipe("maml", images, max_staleness=2, seed=401)
    if algorithm in WORDS:
        return words(algorithm, images)
    if algorithm == "image_sets":
        return sets(images)
    if algorithm == "cheetah":
        return cheetah()
    return running(images) if algorithm == "protonet" else recipe(algorithm, images)


@pytest.fixture(scope="module")
def three(ray_local, small_images):
    """Three standing workers that can do every run of this file."""
    from pipeline.runtime.cluster import Workers
    from pipeline.runtime.transport import RayTransport

    tiny = [of(name, small_images) for name in (*UNLIKE, *WORDS, "image_sets", "large", "stale", *INSTALLED)]
    build = BuildManyWorkers(tuple(one.model_dump_json() for one in tiny))
    transport = stand(RayTransport(build, Workers(3, 0.0), "local"))
    yield transport
    transport.close()


@pytest.fixture
def standing(three, monkeypatch):
    """Executors take seats among the standing workers instead of starting their own."""
    monkeypatch.setattr("pipeline.runtime.executor.RayTransport", lambda _, workers, *__: Seats(three, workers.count))


@pytest.mark.parametrize(("algorithm", "workers"), COUNTS)
def test_theta_is_the_same_bits_for_any_number_of_workers(algorithm, workers, standing, small_images, tmp_path):
    """Unlike algorithms on a real Ray. Every day ``test_ray_drills`` compares MAML on two workers with one process, and
    ``test_any_schedule`` all algorithms on virtual workers.

    An algorithm cannot see which of the two it is on: it may not import Ray (``test_architecture``), and what it is
    given and gives travels unchanged (``check_messages_can_travel``).
    """
    tiny = of(algorithm, small_images)
    assert TASKS // CHUNK > 3, "three workers should have more than a chunk each"
    serial = run(tiny, tmp_path / "serial", 0)
    assert len(set(serial.losses)) == STEPS
    for count in workers:
        assert run(tiny, tmp_path / f"ray{count}", count) == serial


@pytest.mark.slow
def test_a_theta_that_is_too_large_for_a_line_travels_through_the_object_store(standing, small_images, tmp_path):
    """Before and after it the same workers are called over lines."""
    tiny, large = (of(name, small_images) for name in ("maml", "large"))
    assert build_components(large).theta.numpy().nbytes > LARGEST
    for name, one in (("first", tiny), ("large", large), ("last", tiny)):
        assert run(one, tmp_path / name, 2) == run(one, tmp_path / f"serial {name}", 0)


@pytest.mark.slow
def test_without_lines_all_travels_through_ray(standing, three, small_images, tmp_path, monkeypatch):
    for module in ("executor", "transport"):
        monkeypatch.setattr(f"pipeline.runtime.{module}.line_to", lambda actor, address: None)
    monkeypatch.setattr(three, "lines", {})
    tiny = of("maml", small_images)
    assert run(tiny, tmp_path / "ray", 2) == run(tiny, tmp_path / "serial", 0)


@pytest.mark.slow
def test_sums_on_workers_give_the_same_bits(standing, small_images, tmp_path, monkeypatch):
    """As with many workers: theta and contributions are in Ray's store, and the parameter actor gets two sums."""
    from pipeline.runtime.transport import RayTransport

    asked: list[Any] = []
    add = RayTransport.add
    monkeypatch.setattr("pipeline.runtime.executor.MANY", 1)
    monkeypatch.setattr("pipeline.runtime.executor.FAN_IN", 2)
    monkeypatch.setattr(RayTransport, "add", lambda self, *call: asked.append(call) or add(self, *call))
    tiny = of("protonet", small_images)
    assert run(tiny, tmp_path / "ray", 2) == run(tiny, tmp_path / "serial", 0)
    assert len(asked) == 2 * STEPS, "four chunks are two sums"


@pytest.mark.slow
@pytest.mark.fault("F1")
def test_a_sum_that_is_lost_with_its_worker_is_made_again(ray_local, small_images, tmp_path, monkeypatch):
    from pipeline.runtime.transport import RayTransport

    killed: list[int] = []
    add = RayTransport.add

    def falls(self: Any, worker: int, some: Any) -> Any:
        if not killed:
            killed.append(worker)
            ray_local.kill(self.actors[worker])
        return add(self, worker, some)

    monkeypatch.setattr("pipeline.runtime.executor.MANY", 1)
    monkeypatch.setattr("pipeline.runtime.executor.FAN_IN", 2)
    monkeypatch.setattr(RayTransport, "add", falls)
    tiny = of("protonet", small_images)
    assert run(tiny, tmp_path / "ray", 2) == run(tiny, tmp_path / "serial", 0)
    assert killed


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 2)], ids=["ray-then-serial", "serial-then-ray"])
def test_a_run_that_is_resumed_elsewhere_ends_the_same(first, second, standing, small_images, tmp_path):
    """``test_own_parts`` stops a run on Ray and goes on with it in one process, every day."""
    straight = run(running(small_images), tmp_path / "straight", 0)
    half = run(running(small_images, STEPS // 2), tmp_path / "resumed", first)
    resumed = run(running(small_images), tmp_path / "resumed", second)
    assert resumed.began_after == STEPS // 2
    assert (resumed.theta, half.losses + resumed.losses) == (straight.theta, straight.losses)


@pytest.mark.slow
def test_a_run_in_an_object_store_is_that_of_a_folder(standing, small_images, tmp_path):
    """Its parameter actor may be on any machine. ``test_bucket`` has such a run in one process."""
    tiny = recipe("maml", small_images)
    assert run(tiny, f"file://{tmp_path}/store", 2) == run(tiny, tmp_path / "serial", 0)


@needs_mujoco
@pytest.mark.slow
@pytest.mark.fault("F1")
def test_a_worker_that_is_killed_in_the_middle_of_an_episode_leaves_no_trace(tmp_path):
    """``test_ray_drills`` kills one in the middle of a chunk, every day."""
    marker, tiny = tmp_path / "fallen", cheetah()
    falling = BuildFallingWorker(tiny.model_dump_json(), str(marker))
    assert run(tiny, tmp_path / "ray", 2, falling) == run(tiny, tmp_path / "serial", 0)
    assert marker.exists()
