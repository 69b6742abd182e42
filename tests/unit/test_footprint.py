"""What is told of memory before a run: counted bytes, the chunk size that they choose, and a chunk that cannot fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.build import build_components, build_worker
from pipeline.config import Recipe, load
from pipeline.core.failures import ConfigError
from pipeline.engine.chunks import chunks_of
from pipeline.engine.living import peak_bytes
from pipeline.runs import footprint
from pipeline.runs.dry_run import dry_run
from pipeline.runs.footprint import Footprint, check_memory, sized, weighing
from pipeline.storage.sizes import all_memory

pytestmark = pytest.mark.usefixtures("torch_threads")

SINUSOID = "sinusoid_maml"


def recipe(overrides: Sequence[str] = ()) -> Recipe:
    return load(SINUSOID, ["chunk_size=auto", *overrides])


def test_the_bytes_of_a_chunk_follow_from_those_of_one_task_and_of_two():
    given = load(SINUSOID, ["chunk_size=64"])
    found: list[Footprint] = []
    components = dry_run(given, weigh=lambda _, one: found.append(one))
    worker, theta = build_worker(given, components), components.theta.numpy()
    (chunk,) = chunks_of(given.seed, 1, 64, 64, purpose="train", split="train")
    (judged,) = chunks_of(given.evaluation.seed, 0, 64, 64, purpose="evaluate", split="test")
    worker.score(theta, judged)  # counts the bytes of one task once
    assert found[0].learning(64) == pytest.approx(peak_bytes(lambda: worker.learn(theta, chunk)), rel=0.3)
    assert found[0].evaluating(64, "cpu") == pytest.approx(peak_bytes(lambda: worker.score(theta, judged)), rel=0.25)


def test_a_chunk_is_a_quarter_of_a_step_or_what_fits(monkeypatch):
    notes: list[str] = []
    assert sized(recipe(), notes.append).chunk_size == 8
    assert notes[0].startswith("chunk_size: auto is 8, of ")
    assert sized(recipe(["tasks_per_step=3"])).chunk_size == 1
    assert sized(recipe(["workers.gpus=1"])).chunk_size == 32, "one chunk fills a GPU"
    assert sized(load(SINUSOID)) == load(SINUSOID)
    first, further, _ = learning_bytes(load(SINUSOID))
    monkeypatch.setitem(footprint.CHUNK_BYTES, "cpu", first + 3 * further)
    assert sized(recipe()).chunk_size == 4
    monkeypatch.setitem(footprint.CHUNK_BYTES, "cpu", first + 3 * further - 1)
    assert sized(recipe()).chunk_size == 2
    monkeypatch.setitem(footprint.CHUNK_BYTES, "cpu", 1)
    assert sized(recipe()).chunk_size == 1


def learning_bytes(given: Recipe) -> tuple[int, int, int]:
    components = build_components(given)
    return footprint.learning_bytes(given, components, build_worker(given, components))


def test_an_open_chunk_size_is_refused_where_a_number_is_needed():
    with pytest.raises(ConfigError, match="chunk_size: auto is fitted when a run begins; here give a number"):
        build_components(recipe())


def test_chunks_that_do_not_fit_are_refused_with_the_size_that_does(monkeypatch):
    given, total = load(SINUSOID, ["chunk_size=1024", "tasks_per_step=4096"]), all_memory()
    each = total // 100
    check_memory(given, Footprint(each, each // 100, 0), 2)
    with pytest.raises(ConfigError, match=r"^chunk_size: 1024 needs .* in each of 2 workers, and this .*_size=16,"):
        check_memory(given, Footprint(each, each, 0), 2)
    notes: list[str] = []
    for executor, address in (("serial", None), ("ray", "local")):
        weigh = weighing(given, executor, address, notes.append)
        with pytest.raises(ConfigError, match="use chunk_size="):
            weigh(build_components(given), Footprint(each, each, each))
    weighing(given, "ray", "10.0.0.1:6379", notes.append)(build_components(given), Footprint(each, each, each))
    assert len(notes) == 3
    assert "1,761 parameters, a contribution of 7.04 kB, a checkpoint of 121 kB" in notes[0]


def test_the_work_of_scoring_is_counted_in_tasks_that_are_learnt_from():
    """Ten times the inner steps at test are ten times the work of adapting, beside what predicting takes."""

    def work(*changes: str) -> float:
        return dry_run(load("sinusoid_reptile", changes), weigh=lambda *_: None).work

    few, many = (work("algorithm.inner_steps=10", f"algorithm.eval_inner_steps={steps}") for steps in (10, 100))
    assert 3 < many / few < 10
    assert build_components(load(SINUSOID)).work == 1.0
