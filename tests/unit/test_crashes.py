"""A run that dies anywhere and is resumed equals the undisturbed run. Of two coordinators of a run one goes on."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.failures import ConfigError, FencedError, StorageError
from pipeline.engine.durability.checkpoint import Checkpoints
from pipeline.storage.local import Local
from tests.quiet_runs import Outcome, run
from tests.runtime.tiny import recipe
from tests.unit.crashing import CRASHED, POINTS, crashes, exit_codes, outgrows, trains

pytestmark = pytest.mark.usefixtures("torch_threads")

STEPS, DIES_AT = 5, 3
TINY = recipe("maml", Path(), STEPS)
TEXT = TINY.model_dump_json()


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Outcome:
    return run(TINY, tmp_path_factory.mktemp("straight"), 0)


def journaled(folder: Path) -> Counter[tuple[str, int]]:
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return Counter((entry["kind"], entry["step"]) for entry in entries if entry["kind"] == "train")


ONCE = Counter(("train", step) for step in range(1, STEPS + 1))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A folder for each point, left by a process that died there."""
    folders = {point: tmp_path_factory.mktemp("crashed") for point in POINTS}
    calls = [(TEXT, str(folder), point, DIES_AT) for point, folder in folders.items()]
    assert exit_codes(crashes, *calls) == [CRASHED] * len(POINTS)
    return folders


@pytest.mark.fault("F10")
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_changes_nothing(point, straight, crashed):
    resumed = run(TINY, crashed[point], 0)
    assert resumed.began_after == (DIES_AT if point in ("after rename", "before journal") else DIES_AT - 1)
    assert resumed.theta == straight.theta
    assert journaled(crashed[point]) == ONCE


@pytest.mark.fault("F27")
def test_of_two_coordinators_at_once_exactly_one_survives(straight, tmp_path):
    """Both have opened the run, where no lock keeps them apart; the one that came second has the newer epoch."""
    codes = exit_codes(trains, (TEXT, str(tmp_path)), (TEXT, str(tmp_path)), barrier=True)
    assert sorted(codes) == [0, FencedError.exit_code]
    newest, warnings = Checkpoints(Local(tmp_path), 1).newest()
    assert (newest.step, warnings) == (STEPS, [])
    assert run(TINY, tmp_path, 0).theta == straight.theta
    assert journaled(tmp_path) == ONCE


@pytest.mark.fault("F27")
def test_a_second_run_in_the_folder_is_refused_and_told_who_writes_there(tmp_path):
    first, second = Local(tmp_path), Local(tmp_path, patience=0.1)
    first.lock()
    first.claim()
    with pytest.raises(ConfigError, match=r"another run writes there \(process \d+ on \S+ since .* UTC\)"):
        second.lock()
    first.write("still", b"mine")
    first.release()
    second.lock()
    second.claim()
    second.release()


def test_a_lock_is_waited_for_while_its_holder_dies(tmp_path):
    first, second = Local(tmp_path), Local(tmp_path, patience=60.0)
    first.lock()
    waiting = threading.Thread(target=second.lock, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    first.release()
    waiting.join(30.0)
    assert not waiting.is_alive()
    second.release()


def test_a_process_that_was_taken_for_dead_writes_nothing(tmp_path):
    zombie, owner = Local(tmp_path), Local(tmp_path)
    zombie.claim()
    log = zombie.log("journal.jsonl")
    log.append("one\n")
    owner.claim()
    for write in (
        lambda: zombie.write("best.safetensors", b"old"),
        lambda: zombie.remove("journal.jsonl"),
        lambda: log.append("two\n"),
        log.sync,
    ):
        with pytest.raises(FencedError, match="taken over by process"):
            write()
    log.close()
    assert owner.read("journal.jsonl") == b"one\n"
    assert owner.names("") == ["journal.jsonl"]


def test_a_file_that_outgrows_what_it_may_ends_the_run_and_leaves_the_rest_whole(straight, tmp_path):
    run(recipe("maml", Path(), 2), tmp_path, 0)
    size = (tmp_path / "checkpoints" / "step-00000002.safetensors").stat().st_size
    assert exit_codes(outgrows, (TEXT, str(tmp_path), size // 2)) == [StorageError.exit_code]
    why = (tmp_path / "why").read_text()
    assert "step-00000003.safetensors: File too large; it needs" in why
    assert "ulimit -f" in why
    assert "\n" not in why
    assert run(TINY, tmp_path, 0) == straight._replace(began_after=2, losses=straight.losses[2:])
