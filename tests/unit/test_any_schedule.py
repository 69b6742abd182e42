"""Every algorithm gives the same bits on any number of workers that are slow, die, come back or answer twice.

In one process and in virtual time: the real scheduler, workers, coordinator and checkpoints, without Ray. On a real Ray
``test_ray_equals_serial`` does the same for five unlike algorithms.
"""

from __future__ import annotations

import pytest

from pipeline.algorithms import ALGORITHMS
from pipeline.build import BuildWorker
from tests import quiet_runs
from tests.runtime.tiny import CHUNK, STEPS, TASKS, recipe, sets, words
from tests.unit.virtual import CALM, EVERYTHING, STRAYS, VirtualExecutor

pytestmark = pytest.mark.usefixtures("torch_threads")

SCHEDULES = {"calm": (3, CALM), "strays": (2, STRAYS), "everything": (4, EVERYTHING)}
"""The number of workers and what happens to them; ``test_scheduler`` has all numbers and all harm, on smaller tasks."""

ALIKE = {
    "maml": (
        *("anil", "metasgd", "mamlpp", "imaml", "recurrentmaml", "oml", "anml", "online_head"),
        *("lamaml", "replay", "finetune", "tnas", "hypernas", "metagan_maml"),
    ),
    "reptile": ("metanas",),
    "protonet": ("metagan_protonet", "matchingnet", "relationnet", "versa", "nearest", "ridge", "metagan_relationnet"),
    "ntm": ("memoryrnn", "memorygated", "mann"),
    "baseline": ("multitask", "pretrain"),
    "anp": ("np", "cnp"),
    "maml_rl": ("promp", "rl2"),
}
"""An algorithm that is tried every day, and those that a schedule treats alike."""
RARELY = {name for names in ALIKE.values() for name in names}


@pytest.mark.parametrize(
    "schedule", ["everything", *(pytest.param(name, marks=pytest.mark.slow) for name in ("calm", "strays"))]
)
@pytest.mark.parametrize(
    "algorithm",
    [
        *(pytest.param(name, marks=pytest.mark.slow) if name in RARELY else name for name in ALGORITHMS),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("g2p", "image_sets")),
    ],
)
def test_theta_is_the_same_bits_whatever_happens_to_how_many_workers(algorithm, schedule, small_images, tmp_path):
    """What happens in the other two schedules happens in ``everything`` too; two are MAML on tasks of other sources."""
    others = {"g2p": lambda: words("g2p", small_images), "image_sets": lambda: sets(small_images)}
    tiny = others[algorithm]() if algorithm in others else recipe(algorithm, small_images)
    text = tiny.model_dump_json()
    assert max(workers for workers, _ in SCHEDULES.values()) <= TASKS // CHUNK, "each worker should have a chunk"
    serial = quiet_runs.run(tiny, tmp_path / "serial", 0)
    assert len(set(serial.losses)) == STEPS
    workers, chaos = SCHEDULES[schedule]
    coordinator = quiet_runs.BuildQuietCoordinator(text, str(tmp_path / "virtual"))()
    executor = VirtualExecutor(BuildWorker(text)(), coordinator, workers, 0, chaos)
    assert quiet_runs.train(tiny, tmp_path / "virtual", executor) == serial
